"""Memory of an NVIDIA GPU and copies to and from it, by the driver's own functions."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np

from moe_export.errors import MemoryBudgetError, MissingEnvironmentError
from moe_export.forms import Array

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_POINTER = ctypes.c_uint64  # CUdeviceptr


class Device:
    """The first GPU, with the context that other libraries of this process use too.

    Raises ``MissingEnvironmentError`` where there is no driver or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise MissingEnvironmentError(
                "no NVIDIA driver: there is no libcuda.so.1",
                where="this machine",
                hint="run this where there is a GPU",
            ) from error
        self._call("cuInit", 0)
        self._number = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._number), 0)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._number)
        self.enter()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = stream.value or 0

    def enter(self) -> None:
        """Make its context that of this thread."""
        self._call("cuCtxSetCurrent", self._context)

    def buffer(self, nbytes: int) -> Buffer:
        """Memory of the GPU; ``MemoryBudgetError`` where there is not enough."""
        pointer = _POINTER()
        # No bytes are no allocation to the driver, and an address is wanted all the same.
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1)))
        return Buffer(self, pointer.value, nbytes)

    def synchronize(self) -> None:
        """Wait for all that was given to the stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: object) -> None:
        status: int = getattr(self._driver, name)(*arguments)
        if not status:
            return
        text = ctypes.c_char_p()
        self._driver.cuGetErrorString(status, ctypes.byref(text))
        why = (text.value or b"unknown error").decode(errors="replace")
        if status == _OUT_OF_MEMORY:
            raise MemoryBudgetError(f"the GPU has not enough memory: {why}", where=name)
        raise MissingEnvironmentError(f"the NVIDIA driver fails: {why} ({status})", where=name)


class Buffer:
    """Bytes on the GPU, freed with the block they are used in."""

    def __init__(self, device: Device, address: int, nbytes: int) -> None:
        self._device, self.address, self.nbytes = device, address, nbytes

    def write(self, array: Array) -> None:
        """Copy ``array``, dense and of as many bytes, to the GPU."""
        if array.nbytes != self.nbytes or not array.flags.c_contiguous:
            raise ValueError(f"an array of {array.nbytes} bytes for a buffer of {self.nbytes}")
        if self.nbytes:
            self._copy("cuMemcpyHtoD_v2", _POINTER(self.address), array.ctypes.data_as(_VOID))

    def read(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """The bytes as an array."""
        made = np.empty(shape, dtype)
        if made.nbytes > self.nbytes:
            raise ValueError(f"an array of {made.nbytes} bytes of a buffer of {self.nbytes}")
        if made.nbytes:
            count = ctypes.c_size_t(made.nbytes)
            address = _POINTER(self.address)
            self._device._call("cuMemcpyDtoH_v2", made.ctypes.data_as(_VOID), address, count)
        return made

    def _copy(self, name: str, to: object, given: object) -> None:
        self._device._call(name, to, given, ctypes.c_size_t(self.nbytes))

    def free(self) -> None:
        """Give the memory back."""
        self._device._call("cuMemFree_v2", _POINTER(self.address))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


_VOID = ctypes.c_void_p


@contextmanager
def buffers(device: Device, sizes: dict[str, int]) -> Iterator[dict[str, Buffer]]:
    """A buffer for each size, by name, freed when the block ends."""
    made: dict[str, Buffer] = {}
    try:
        for name, nbytes in sizes.items():
            made[name] = device.buffer(nbytes)
        yield made
    finally:
        for each in made.values():
            each.free()
