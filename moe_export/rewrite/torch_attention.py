"""Attention of rows that follow a cache, and heads at their positions, as the torch ops do it."""

from __future__ import annotations

import torch
from torch import Tensor


def appended(past: Tensor, rows: Tensor) -> Tensor:
    """``past [P,B,M,n]`` with ``rows [B,S,M*n]`` behind it."""
    by_head = rows.unflatten(-1, past.shape[2:])
    return torch.cat([past, by_head.transpose(0, 1)])


def attended(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """``y [B,S,N*v]`` of ``query [B,S,N*d]``, ``keys [T,B,M,d]`` and ``values [T,B,M,v]``."""
    heads, width = keys.shape[2:]
    group = query.shape[2] // (heads * width)
    by_head = query.unflatten(-1, (heads, group, width)) * (scale or width**-0.5)
    scores = torch.einsum("bsmgd,tbmd->bmgst", by_head, keys)
    seen = mask.unsqueeze(2)
    # Not -inf: a softmax over nothing would be NaN.
    weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(dim=-1)
    y = torch.einsum("bmgst,tbmv->bsmgv", weights.masked_fill(~seen, 0), values)
    return y.flatten(2)


def normed(heads: Tensor, norm: Tensor, epsilon: float) -> Tensor:
    """``heads [..,d]`` by their root mean square, times ``norm [d]``."""
    mean = heads.square().mean(dim=-1, keepdim=True)
    return heads / (mean + epsilon).sqrt() * norm


def rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``heads [B,S,N,d]``, their first 2h numbers turned by halves; ``cos``, ``sin`` [B,S,h]."""
    half = cos.shape[-1]
    first, second, rest = heads.split([half, half, heads.shape[-1] - 2 * half], dim=-1)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
