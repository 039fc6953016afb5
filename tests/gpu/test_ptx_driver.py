"""The mock CUDA driver: memory, modules and launches as the real one has them."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.ptx.build import build

from .ptx_driver import Driver, DriverError, Memory

PTX = Path(__file__).parent / "ptx"
KERNELS = {"softmax": "softmax", "cumsum": "cumsum"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each function below printed: a process has one driver, so they have one of their own."""
    folder = tmp_path_factory.mktemp("kernels")
    for name in KERNELS:
        build(PTX / f"{name}.ptx", folder)
    command = [sys.executable, "-m", "gpu.test_ptx_driver", str(folder)]
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


class Calls:
    """A launch of softmax, and what may go wrong around it."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.cuda = driver, driver.library
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        driver.check(self.cuda.cuModuleLoadData(ctypes.byref(self.module), b"any image"))
        driver.check(self.get(b"softmax"))

    def get(self, name: bytes) -> int:
        return int(self.cuda.cuModuleGetFunction(ctypes.byref(self.function), self.module, name))

    def launch(self, arguments: list[Any], *, threads: int = 128, shared: int = 16) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        sizes = [ctypes.c_uint(n) for n in (1, 1, 1, threads, 1, 1, shared)]
        self.driver.check(self.cuda.cuLaunchKernel(self.function, *sizes, None, pointers, None))

    def softmax(self, memory: Memory, columns: int, held: int, **how: Any) -> np.ndarray:
        x = memory.of(np.arange(held, dtype=np.float32))
        y = memory.empty(4 * columns)
        addresses = [ctypes.c_uint64(place) for place in (x, y)]
        none = [ctypes.c_uint64(0)] * 2
        self.launch([*addresses, ctypes.c_int32(columns), *none], **how)
        return memory.read(y, (columns,), np.float32)


def right(calls: Calls, memory: Memory) -> Iterator[str]:
    found = calls.softmax(memory, 100, 100)
    true = np.exp(np.arange(100) - 99.0)
    yield "close" if np.allclose(found, true / true.sum(), rtol=1e-5) else str(found)


def too_short(calls: Calls, memory: Memory) -> Iterator[str]:
    calls.softmax(memory, 100, 90)
    yield "nothing"


def wrong_threads(calls: Calls, memory: Memory) -> Iterator[str]:
    calls.softmax(memory, 100, 100, threads=64)
    yield "nothing"


def too_much_shared(calls: Calls, memory: Memory) -> Iterator[str]:
    calls.softmax(memory, 100, 100, shared=64 << 10)
    yield "nothing"


def asked_for_shared(calls: Calls, memory: Memory) -> Iterator[str]:
    calls.driver.check(calls.cuda.cuFuncSetAttribute(calls.function, 8, 64 << 10))
    calls.softmax(memory, 100, 100, shared=64 << 10)
    yield "launched"
    calls.driver.check(calls.cuda.cuFuncSetAttribute(calls.function, 8, 164 << 10))
    yield "more than the device has"


def unknown_kernel(calls: Calls, memory: Memory) -> Iterator[str]:
    calls.driver.check(calls.get(b"nothing_of_the_kind"))
    yield "nothing"


def guard(calls: Calls, memory: Memory) -> Iterator[str]:
    place = memory.empty(100)
    ctypes.memset(place + 100, 0, 1)  # what the host should not do
    memory.buffers.remove(place)
    calls.driver.check(calls.cuda.cuMemFree_v2(place))
    yield "nothing"


def never_written(calls: Calls, memory: Memory) -> Iterator[str]:
    memory.read(memory.empty(12), (3,), np.float32)
    yield "nothing"


def copy_too_far(calls: Calls, memory: Memory) -> Iterator[str]:
    place = memory.empty(8)
    calls.driver.check(calls.cuda.cuMemcpyHtoD_v2(place, bytes(12), 12))
    yield "nothing"


def entry_points(calls: Calls, memory: Memory) -> Iterator[str]:
    entry, status = ctypes.c_void_p(), ctypes.c_int()
    flags = ctypes.c_uint64(0)
    for name in (b"cuMemAlloc", b"cuLaunchKernel", b"cuWarpDrive"):
        calls.cuda.cuGetProcAddress_v2(
            name, ctypes.byref(entry), 12000, flags, ctypes.byref(status)
        )
        yield f"{status.value}{'' if entry.value else ' null'}"


def capability(calls: Calls, memory: Memory) -> Iterator[str]:
    value = ctypes.c_int()
    for which in (75, 76, 97):
        calls.driver.check(calls.cuda.cuDeviceGetAttribute(ctypes.byref(value), which, 0))
        yield str(value.value)


SAID = {
    "right": "close",
    "too_short": "719: softmax: block 0,0,0, warp 2, lane 26, softmax.ptx",
    "wrong_threads": "719: softmax: is for blocks of 128 threads, not 64",
    "too_much_shared": "1: softmax: 65536 bytes of shared memory, but the function may have 49152",
    "asked_for_shared": "launched; 1: softmax: 167936 bytes of shared memory, the device has 1669",
    "unknown_kernel": "500: nothing_of_the_kind is not among the built kernels",
    "guard": "700: the guard zone of a buffer of 100 bytes was written to",
    "never_written": "byte 0 of a result (3,) was never written",
    "copy_too_far": "1: copy to the device: 12 bytes that are no device memory",
    "entry_points": "0; 0; 1 null",
    "capability": "8; 0; 166912",
}


@pytest.mark.parametrize("name", SAID)
def test_the_driver_says(name: str, answers: dict[str, str]) -> None:
    assert answers[name].startswith(SAID[name])


def main(folder: Path) -> None:
    calls = Calls(Driver(folder))
    for name in SAID:
        said = []
        try:
            with Memory(calls.driver) as memory:
                for words in globals()[name](calls, memory):
                    said.append(words)
        except DriverError as error:
            said.append(str(error).replace("\n", " "))
        calls.driver.check(calls.get(b"softmax"))
        print(name, "; ".join(said), sep="\t")  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(Path(sys.argv[1]))
