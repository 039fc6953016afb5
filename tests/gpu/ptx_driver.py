"""Device memory of the mock driver as NumPy arrays."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.ptx.build import mock_driver

Array = npt.NDArray[Any]


class DriverError(Exception):
    """What the driver or the executor said."""


class Driver:
    """``libcuda.so.1`` of this process: the mock one, with a context."""

    def __init__(self, kernels: Path) -> None:
        os.environ["MOE_EXPORT_PTX_MODULE"] = str(kernels)
        # Loaded first and for all: who opens libcuda.so.1 by its name gets this one.
        self.library = ctypes.CDLL(str(mock_driver()), mode=ctypes.RTLD_GLOBAL)
        pointer, size = ctypes.c_uint64, ctypes.c_size_t
        for name, types in {
            "cuMemAlloc_v2": [ctypes.c_void_p, size],
            "cuMemFree_v2": [pointer],
            "cuMemcpyHtoD_v2": [pointer, ctypes.c_void_p, size],
            "cuMemcpyDtoH_v2": [ctypes.c_void_p, pointer, size],
            "mock_cuda_first_unwritten": [pointer, size],
            "mock_cuda_replace": [ctypes.c_char_p, ctypes.c_char_p],
        }.items():
            getattr(self.library, name).argtypes = types
        self.library.mock_cuda_first_unwritten.restype = ctypes.c_int64
        self.library.mock_cuda_last_error.restype = ctypes.c_char_p
        self.library.mock_cuda_launches_of.restype = ctypes.c_uint64
        context = ctypes.c_void_p()
        self.check(self.library.cuInit(0))
        self.check(self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
        self.check(self.library.cuCtxSetCurrent(context))

    def check(self, result: int) -> None:
        if result:
            raise DriverError(f"{result}: {self.library.mock_cuda_last_error().decode()}")

    def launches_of(self, kernel: str) -> int:
        return int(self.library.mock_cuda_launches_of(kernel.encode()))

    @contextmanager
    def replaced(self, kernel: str, library: Path, original: Path) -> Iterator[None]:
        """Within it, ``kernel`` is that of another library."""
        self.check(self.library.mock_cuda_replace(kernel.encode(), str(library).encode()))
        try:
            yield
        finally:
            self.check(self.library.mock_cuda_replace(kernel.encode(), str(original).encode()))


@dataclass
class Memory:
    """Buffers that are freed together; guards are looked at then."""

    driver: Driver
    buffers: list[int] = field(default_factory=list)

    def empty(self, size: int) -> int:
        """An address of memory with nothing in it; null for no bytes, as an empty tensor may be."""
        if size == 0:
            return 0
        address = ctypes.c_uint64()
        self.driver.check(self.driver.library.cuMemAlloc_v2(ctypes.byref(address), size))
        self.buffers.append(address.value)
        return address.value

    def of(self, array: Array | None) -> int:
        if array is None:
            return 0
        whole = np.ascontiguousarray(array)
        address = self.empty(whole.nbytes)
        if address:
            self.driver.check(
                self.driver.library.cuMemcpyHtoD_v2(address, whole.ctypes.data, whole.nbytes)
            )
        return address

    def read(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """The numbers there, all of which must have been written."""
        array = np.zeros(shape, dtype)
        if not array.nbytes:
            return array
        at = self.driver.library.mock_cuda_first_unwritten(address, array.nbytes)
        if at != -1:
            raise DriverError(f"byte {at} of a result {shape} was never written")
        self.driver.check(
            self.driver.library.cuMemcpyDtoH_v2(array.ctypes.data, address, array.nbytes)
        )
        return array

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *exception: object) -> None:
        results = [self.driver.library.cuMemFree_v2(address) for address in self.buffers]
        if exception[0] is None:
            for result in results:
                self.driver.check(result)
