"""Launches built kernels on NumPy arrays.

An array is device memory for as long as a launch lasts: what it may read and write is said by the
wrapper that it is given in.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .build import build, build_text, runtime_library

Array = npt.NDArray[Any]
ERROR_BYTES = 4096


class KernelError(Exception):
    """What a kernel may not do: kernel, block, warp, lane, line and address."""


@dataclass(frozen=True)
class Input:
    """An array that kernels read and may not write."""

    array: Array


@dataclass(frozen=True)
class Output:
    """An array to be written, of which nothing is known before."""

    array: Array


@dataclass(frozen=True)
class InOut:
    """An array that is read and written."""

    array: Array


@dataclass(frozen=True)
class Address:
    """A place in a buffer that another argument registers, or a null pointer."""

    value: int


Buffer = Input | Output | InOut
Argument = Buffer | Address | int | float | np.generic


class Runtime:
    """The shared library of buffers and checks, loaded once."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(runtime_library()), mode=ctypes.RTLD_GLOBAL)
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self.library.ptx_register.argtypes = [pointer, size, ctypes.c_int, ctypes.c_int]
        self.library.ptx_forget.argtypes = [pointer]
        self.library.ptx_first_unwritten.argtypes = [pointer, size]
        self.library.ptx_first_unwritten.restype = ctypes.c_int64

    def register(self, buffer: Buffer) -> None:
        array = buffer.array
        if not array.flags["C_CONTIGUOUS"]:
            raise ValueError("device memory is contiguous")
        writable, initialised = not isinstance(buffer, Input), not isinstance(buffer, Output)
        if array.nbytes and self.library.ptx_register(
            array.ctypes.data, array.nbytes, writable, initialised
        ):
            raise ValueError("two buffers overlap")

    def forget(self, buffer: Buffer) -> None:
        if buffer.array.nbytes:
            self.library.ptx_forget(buffer.array.ctypes.data)

    def first_unwritten(self, array: Array) -> int:
        return int(self.library.ptx_first_unwritten(array.ctypes.data, array.nbytes))


class Module:
    """The kernels of a PTX file."""

    def __init__(self, library: Path) -> None:
        self.runtime = Runtime()
        self.library = ctypes.CDLL(str(library))

    @classmethod
    def of_file(cls, ptx: Path) -> Module:
        return cls(build(ptx))

    @classmethod
    def of_text(cls, text: str, name: str = "text.ptx") -> Module:
        return cls(build_text(text, name))

    def launch(
        self,
        kernel: str,
        arguments: Sequence[Argument],
        *,
        grid: Sequence[int],
        threads: int,
        shared: int = 0,
        whole_outputs: bool = True,
    ) -> None:
        """Run the kernel; raises :class:`KernelError`.

        With ``whole_outputs``, every byte of each :class:`Output` must have been written.
        """
        buffers = [a for a in arguments if isinstance(a, Input | Output | InOut)]
        registered: list[Buffer] = []
        try:
            for buffer in buffers:
                self.runtime.register(buffer)
                registered.append(buffer)
            self._launch(kernel, arguments, grid, threads, shared)
            if whole_outputs:
                self._require_written(kernel, buffers)
        finally:
            for buffer in registered:
                self.runtime.forget(buffer)

    def _launch(
        self,
        kernel: str,
        arguments: Sequence[Argument],
        grid: Sequence[int],
        threads: int,
        shared: int,
    ) -> None:
        values = [_as_bytes(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        dim3 = ctypes.c_uint * 3
        error = ctypes.create_string_buffer(ERROR_BYTES)
        whole_grid = dim3(*grid, *([1] * (3 - len(grid))))
        failed = self.library.ptx_launch(
            kernel.encode(), whole_grid, dim3(threads, 1, 1), ctypes.c_uint(shared), pointers,
            error, ctypes.c_size_t(ERROR_BYTES),
        )  # fmt: skip
        if failed:
            raise KernelError(error.value.decode())

    def _require_written(self, kernel: str, buffers: Sequence[Buffer]) -> None:
        for number, buffer in enumerate(buffers):
            if isinstance(buffer, Output) and buffer.array.nbytes:
                at = self.runtime.first_unwritten(buffer.array)
                if at >= 0:
                    raise KernelError(f"{kernel}: byte {at} of buffer {number} was never written")


def _as_bytes(argument: Argument) -> ctypes.Array[ctypes.c_char]:
    if isinstance(argument, Input | Output | InOut):
        value = np.uint64(argument.array.ctypes.data).tobytes()
    elif isinstance(argument, Address):
        value = np.uint64(argument.value).tobytes()
    elif isinstance(argument, np.generic):
        value = argument.tobytes()
    elif isinstance(argument, float):
        value = np.float32(argument).tobytes()
    else:
        value = np.int32(argument).tobytes()
    # Eight bytes at least: a kernel reads as many as the parameter has.
    return ctypes.create_string_buffer(value.ljust(8, b"\0"), max(8, len(value)))
