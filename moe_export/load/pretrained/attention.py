"""Attention as a tracer can follow it: over packed segments, without a loop over them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_export.load.pretrained.indexed import attended

# Transformers hands segment borders to an implementation whose name says flash, and splits them
# in Python for any other.
SEGMENTS = "moe_export_flash_segments"
GROUPED = "moe_export_grouped"


def register() -> None:
    """Make the implementations known to Transformers under their names; again is fine."""
    from transformers import AttentionInterface

    AttentionInterface.register(SEGMENTS, attend_in_segments)
    AttentionInterface.register(GROUPED, attend_in_groups)


def attend_in_groups(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    indices: Tensor | None = None,
    block_indices: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """``[B, S, heads, d]``; several heads of the query share one of ``key`` and ``value``.

    They are not copied for that, as Transformers' own implementation does where there is a mask.
    Indices are those of ``indexed``; ``position_bias [B, heads, S, T]`` is added to the scores.
    """
    if attention_mask is not None:
        attention_mask = attended(module, attention_mask, indices, block_indices)
    if position_bias is not None and attention_mask is not None:
        least = torch.finfo(position_bias.dtype).min
        attention_mask = position_bias.masked_fill(~attention_mask, least)
    made = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
        enable_gqa=query.shape[1] > key.shape[1],
    )
    return made.transpose(1, 2), None


def attend_in_segments(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """``[1, n, heads, d]`` of ``query``, ``key`` and ``value [1, heads, n, d]``.

    ``cu_seq_lens_q [segments + 1]`` are the segments' borders; rows see those of their segment.
    """
    place = torch.arange(query.shape[2])
    segment = (place[:, None] >= cu_seq_lens_q[None, 1:]).sum(-1)
    mask = segment[:, None] == segment[None, :]
    return attend_in_groups(module, query, key, value, mask[None, None], scaling=scaling)
