"""Attention of rows that follow a cache: ``CachedAttention``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def cached_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    past_key: Array,
    past_value: Array,
    *,
    scale: float = 0.0,
) -> tuple[Array, Array, Array]:
    """``y [B,S,N*v]``, and the cache with the rows behind it: ``[P+S,B,M,d]`` and ``[P+S,B,M,v]``.

    ``query`` is ``[B,S,N*d]``, ``key`` ``[B,S,M*d]``, ``value`` ``[B,S,M*v]``, and ``mask``
    ``[B,1,S,P+S]`` or ``[1,1,S,P+S]``.  A row that sees nothing gives 0.  ``scale`` 0 stands for
    1/sqrt(d).
    """
    dtype: npt.DTypeLike = np.float64 if query.dtype == np.float64 else np.float32
    present_key, present_value = (
        _appended(past.astype(dtype), rows.astype(dtype))
        for past, rows in ((past_key, key), (past_value, value))
    )
    batch, length, _ = query.shape
    heads, width = past_key.shape[2:]
    group = query.shape[2] // key.shape[2]
    queries = query.astype(dtype).reshape(batch, length, heads, group, width)
    factor = np.asarray(scale or 1 / np.sqrt(width), dtype)
    scores = np.einsum("bsmgd,tbmd->bmgst", queries * factor, present_key)
    weights = _weights(scores, mask[:, :, np.newaxis])
    y = np.einsum("bmgst,tbmv->bsmgv", weights, present_value)
    return y.reshape(batch, length, group * value.shape[2]), present_key, present_value


def _appended(past: Array, rows: Array) -> Array:
    """``past [P,B,M,n]`` with ``rows [B,S,M*n]`` behind it."""
    by_head = rows.reshape(*rows.shape[:2], *past.shape[2:])
    return np.concatenate([past, by_head.swapaxes(0, 1)])


def _weights(scores: Array, seen: Array) -> Array:
    """The softmax of what is seen; 0 elsewhere."""
    largest = np.where(seen, scores, -np.inf).max(axis=-1, keepdims=True, initial=-np.inf)
    shifted = np.where(seen, scores - np.maximum(largest, np.finfo(scores.dtype).min), -np.inf)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=-1, keepdims=True)
    return np.asarray(exponentials / np.where(total == 0, 1, total))
