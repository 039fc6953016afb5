"""Resizing as PyTorch does it: in float32, which keeps what lies between bytes and beyond them."""

from __future__ import annotations

import math

import numpy as np

from moe_export.forms import Array

# Where a filter is zero from, in pixels of the smaller image.
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def resampled(pixels: Array, height: int, width: int, how: str) -> Array:
    """``pixels [H, W, C]`` uint8 as float32 ``[height, width, C]``, rows first, then columns.

    PyTorch's ``interpolate`` with ``antialias``: where a side shrinks, the filter is as wide as the
    pixels that become one.  ``how`` is ``bilinear`` or ``bicubic``.  Sums go from the first pixel
    to the last, each step rounded to float32.
    """
    along_rows = _along(pixels.astype(np.float32).transpose(1, 0, 2), width, how)
    return _along(along_rows.transpose(1, 0, 2), height, how)


def _along(values: Array, size: int, how: str) -> Array:
    """``[N, M, C]`` as ``[size, M, C]``."""
    if len(values) == size:
        return np.ascontiguousarray(values)
    first, weights = _weights(len(values), size, how)
    values = np.ascontiguousarray(values)
    made = np.zeros((size, *values.shape[1:]), np.float32)
    part = np.empty_like(made)
    for tap in range(weights.shape[1]):
        np.take(
            values, first + tap, axis=0, out=part, mode="clip"
        )  # what is outside weighs nothing
        part *= weights[:, tap, np.newaxis, np.newaxis]
        made += part
    return made


def _weights(old: int, new: int, how: str) -> tuple[Array, Array]:
    """Where the old pixels of each new one begin, ``[new]``, and their weights, ``[new, most]``.

    PyTorch has scales and places in float32, and the rest here is in float64.
    """
    scale = np.float32(old) / np.float32(new)
    wide = max(float(scale), 1.0)
    support = _SUPPORT[how] * wide
    centre = (float(scale) * (np.arange(new) + 0.5)).astype(np.float32).astype(np.float64)
    # Both truncate, which rounds what is positive.
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    behind = np.minimum((centre + support + 0.5).astype(np.int64), old)
    tap = np.arange(math.ceil(support) * 2 + 1)
    exact = _filtered(
        (tap + first[:, np.newaxis] - centre[:, np.newaxis] + 0.5) * (1.0 / wide), how
    )
    exact[tap >= (behind - first)[:, np.newaxis]] = 0.0
    total = np.zeros(new)
    for each in exact.T:  # in this order, as another sum may be rounded otherwise
        total += each
    return first, (exact / total[:, np.newaxis]).astype(np.float32)


def _filtered(x: Array, how: str) -> Array:
    x = np.abs(x)
    if how == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    # Cubic convolution with a = -1/2, https://en.wikipedia.org/wiki/Bicubic_interpolation.
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
