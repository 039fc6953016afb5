"""What the machine can do, sampled: the ceiling that a bundle's speed is held against."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numpy as np

from moe_export.errors import MissingEnvironmentError
from moe_export.runtime import kernels

# One pass of the native probe reads 512 MiB: 10 to 50 ms.  More passes would only average.
_ONE_PASS = 0.0

# Square matrices of 2048: 17 GFLOP, so that starting threads does not show.
_MATMUL_SIZE = 2048
_MATMUL_RUNS = 5


def bandwidth_probe(threads: int) -> Callable[[], float] | None:
    """What samples the bytes per second that ``threads`` threads read, each call some 20 ms.

    The probe is in the kernel library; ``None`` where this installation has none.
    """
    try:
        library = ctypes.CDLL(str(kernels.library_path()))
    except MissingEnvironmentError:
        return None
    probe = library.moe_export_read_bandwidth
    probe.restype = ctypes.c_double
    probe.argtypes = (ctypes.c_int, ctypes.c_double)

    def sample() -> float:
        return float(probe(threads, _ONE_PASS))

    return sample


def matmul_f32() -> float:
    """Operations per second of NumPy's float32 matrix product, the best of some runs."""
    size = _MATMUL_SIZE
    matrix = np.ones((size, size), np.float32)
    return matmul_peak(lambda: np.matmul(matrix, matrix), size)


def matmul_peak(product: Callable[[], object], size: int) -> float:
    """Operations per second of ``product``, a call that multiplies two square matrices."""
    best = float("inf")
    for _ in range(_MATMUL_RUNS):
        began = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
