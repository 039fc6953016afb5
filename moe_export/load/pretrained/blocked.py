"""An index of blocks whose keys are averaged into one, which is turned to where a block begins.

The source walks over rows and looks for what each of them sees; here all blocks there could be are
scored for all rows, as in ``pooled``.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.load.pretrained.pooled import Keep, Pools

_SIZE, _COUNT = "compress_ratio", "block_topk"


def has_mean_blocks(indexer: nn.Module) -> bool:
    """Whether an indexer scores means of blocks of keys, and says which keys it keeps."""
    return {_SIZE, _COUNT} <= vars(indexer).keys()


def keep_blocks(indexer: nn.Module, keep: Keep) -> None:
    """Let ``indexer`` give the keys it keeps as truth values ``[B, 1, S, T]``, for any lengths."""
    kind: Any = type(indexer)
    if not issubclass(kind, _Blocking):
        indexer.__class__ = _keeping(kind, keep)


class _Blocking:
    """An indexer that was changed."""


@cache
def _keeping(indexer: type[nn.Module], keep: Keep) -> type[nn.Module]:
    turned = vars(sys.modules[indexer.__module__])["apply_rotary_pos_emb"]

    def forward(
        self: Any,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor,
        cache: Any,
    ) -> Tensor:
        rows = hidden_states.shape[1]
        cos, sin = (each[:, -rows:] for each in position_embeddings)
        own = self.index_qk_proj(hidden_states).unflatten(-1, (-1, self.index_head_dim))
        heads, keys = own[:, :, : self.index_n_heads], own[:, :, self.index_n_heads]
        heads = turned(self.q_layernorm(heads), cos=cos, sin=sin, unsqueeze_dim=2)
        # The last row is no padding, and sees all that is none.
        is_real = attention_mask[:, 0, -1, -rows:, None]
        packed = cache.update_indexer(
            torch.cat([keys, cos, sin, is_real.to(keys.dtype)], dim=-1), self.layer_idx
        )
        blocks = _Blocks(packed, self.compress_ratio)

        means, cos, sin = blocks.means(self.index_head_dim)
        means = turned(self.k_layernorm(means)[:, :, None], cos=cos, sin=sin, unsqueeze_dim=2)
        scores = F.relu(heads @ means.permute(0, 2, 3, 1)).sum(2) / self.index_head_dim**0.5
        chosen = blocks.kept(scores, keep, self.block_topk) | blocks.tails(rows)
        # A row of padding sees itself: a softmax over nothing would be NaN.
        length = packed.shape[1]
        itself = torch.arange(length) == torch.arange(length - rows, length)[:, None]
        return ((chosen & is_real) | (itself & ~is_real))[:, None]

    kind = type(indexer.__name__, (_Blocking, indexer), {"forward": forward})
    return cast(type[nn.Module], kind)


class _Blocks(Pools):
    """Pools of keys, each with the cosines and sines of its place."""

    def means(self, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The keys ``[B, C, width]`` on average, and cosines and sines of where blocks begin."""
        first = self.packed[:, :, 0, width:-1]
        cos, sin = first.chunk(2, dim=-1)
        return self.packed[..., :width].mean(dim=2), cos, sin
