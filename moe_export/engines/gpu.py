"""The NVIDIA GPU of this machine, asked of the driver alone."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_SUCCESS = 0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The first GPU, and the newest CUDA that its driver runs, as 1000 * major + 10 * minor."""

    name: str
    sm: int
    cuda: int


def find_gpu() -> Gpu | str:
    """The first GPU, or why there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver: there is no libcuda.so.1"
    if status := driver.cuInit(0):
        return f"the NVIDIA driver does not start: error {status}"
    device, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGet(ctypes.byref(device), 0) != _SUCCESS:
        return "the NVIDIA driver knows no GPU"
    driver.cuDriverGetVersion(ctypes.byref(version))
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    major, minor = (_attribute(driver, which, device) for which in (_MAJOR, _MINOR))
    return Gpu(name=name.value.decode(errors="replace"), sm=10 * major + minor, cuda=version.value)


def compute_capability() -> int | None:
    """Of the first GPU, as 10 * major + minor; ``None`` where there is none."""
    found = find_gpu()
    return found.sm if isinstance(found, Gpu) else None


def _attribute(driver: ctypes.CDLL, which: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value
