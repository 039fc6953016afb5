"""Lightning attention one token at a time: a state that decays, without a loop over blocks.

The source computes a prompt in blocks, in a loop over these that depends on its length, and what
follows a state token by token.  Both are the recurrence of ``recurrence.decayed``.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.load.pretrained.recurrence import decayed


def in_lightning_steps(model: nn.Module) -> None:
    """Let each such layer of ``model`` go on from the state of its cache."""
    for module in model.modules():
        if is_lightning(module) and not isinstance(module, _Stepping):
            kind: Any = type(module)
            module.__class__ = _stepping(kind)


def is_lightning(module: nn.Module) -> bool:
    """Whether it is attention of that kind: each head's state decays at a rate of its own."""
    return "slope_rate" in dict(module.named_buffers(recurse=False))


class _Stepping:
    """A layer whose ``forward`` was written anew."""


@cache
def _stepping(attention: type[nn.Module]) -> type[nn.Module]:
    """The same class, whose parts are called as before and its blocks are not."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        rows = self.act_fn(self.qkv_proj(hidden_states))
        if attention_mask is not None:
            rows = rows * attention_mask[:, :, None]
        heads = rows.unflatten(-1, (self.num_attention_heads, 3 * self.head_dim))
        query, key, value = heads.split(self.head_dim, dim=-1)
        before = None if cache is None else cache.get_linear_cache(self.layer_idx)
        made, state = decayed(query, key, value, (-self.slope_rate).exp(), before)
        if cache is not None:
            cache.set_linear_cache(self.layer_idx, state)
        made = self.norm(made.flatten(2))
        return self.out_proj(F.sigmoid(self.output_gate(hidden_states)) * made), state

    kind = type(attention.__name__, (_Stepping, attention), {"forward": forward})
    return cast(type[nn.Module], kind)
