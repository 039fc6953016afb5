"""Heads at their positions: ``RotaryHeads``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def rotary_heads(
    x: Array,
    cos: Array,
    sin: Array,
    norm: Array | None = None,
    *,
    num_heads: int,
    epsilon: float = 0.0,
) -> Array:
    """``y [B,S,N*d]`` of ``x [B,S,N*d]``, whose N heads of a token share ``cos`` and ``sin``.

    ``cos`` and ``sin`` are ``[B,S,h]`` and turn number i of a head with number h + i; those from
    2h on stay.  With ``norm [d]`` a head is first divided by its root mean square and multiplied
    by it.
    """
    dtype: npt.DTypeLike = np.float64 if x.dtype == np.float64 else np.float32
    batch, length, row = x.shape
    heads = x.astype(dtype).reshape(batch, length, num_heads, row // num_heads)
    with np.errstate(invalid="ignore", divide="ignore"):
        if norm is not None:
            mean = np.mean(heads * heads, axis=-1, keepdims=True)
            heads = heads / np.sqrt(mean + np.asarray(epsilon, dtype)) * norm.astype(dtype)
        half = cos.shape[2]
        first, second = heads[..., :half], heads[..., half : 2 * half]
        across, along = (part.astype(dtype)[:, :, np.newaxis] for part in (cos, sin))
        parts = [
            first * across - second * along,
            second * across + first * along,
            heads[..., 2 * half :],
        ]
    return np.concatenate(parts, axis=-1).reshape(x.shape)
