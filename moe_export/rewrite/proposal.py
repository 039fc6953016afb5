"""A proposal: what a block is believed to be, in terms that can be run and so be proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from moe_export.moe.layer import LayerSpec
from moe_export.moe.recipe import Recipe


class Rows(Protocol):
    """A function of one token's row, over the tensors of a block."""

    def on(self, module: nn.Module) -> nn.Module:
        """``rows [T, H] -> [T, D]`` with the tensors of ``module``."""


@dataclass(frozen=True)
class Leaf:
    """What stands at one place of a block's return value."""

    kind: str
    """``y``, ``router_logits``, ``topk_ids``, ``topk_weights``, ``rows`` or ``unused``."""

    flat: bool = False
    """Whether it stands as ``[T, .]`` where the block's input is ``[B, S, H]``."""

    dtype: torch.dtype | None = None
    shape: tuple[int, ...] | None = None
    """Of an ``unused`` tensor."""

    rows: Rows | None = None
    """How a tensor of kind ``rows`` is computed from the block's input."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A block as router and experts.

    ``hidden``, ``logits`` and ``shared`` map rows ``[T, H]`` of the block's input to the experts'
    input (``None``: the rows themselves), to ``router_logits [T, E]`` and to what is added to the
    routed sum ``[T, Hout]``.
    """

    layer: LayerSpec
    logits: Rows
    kept: Rows | None = None
    """``(rows, router_logits) -> (topk_weights, topk_ids)``, both ``[T, K]``, where no attributes
    of the router op say what the block does."""

    why_kept: str | None = None
    """What then stood in the way of a router that the op says."""

    hidden: Rows | None = None
    shared: tuple[Rows, ...] = ()
    after: Rows | None = None
    """``(rows, sum) -> [T, Hout]``: what the block does with routed and shared sum, if anything."""

    middle: Rows | None = None
    """``[S, .] -> [S, I]`` between the experts' matrices, where no activation of the op says it."""

    behind: Rows | None = None
    """``[S, Hout] -> [S, Hout]`` of each expert's rows before they are weighted, if anything; then
    there is a ``middle``."""

    weights: Mapping[str, Recipe] = field(default_factory=dict)
    """Inputs of the ops (``up``, ``down``, ``up_bias``, ``down_bias``, ``correction_bias``,
    ``expert_scale``) from tensors of the block, by its own names."""

    output: Any = Leaf("y")
    """The block's return value, a ``Leaf`` at each tensor."""


@dataclass(frozen=True)
class Refusal:
    """Why a block that looks like a mixture of experts is not proposed."""

    reason: str
    routed: bool = True
    """Whether a router was seen; without one the module is hardly a mixture of experts."""


def first_tensor_like(output: Any, x: Tensor) -> Tensor | None:
    """The first returned tensor that holds a row for each token of ``x [..., H]``."""
    tokens = x.shape[:-1].numel()
    for leaf in torch.utils._pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.dim() >= 2 and leaf.shape[:-1].numel() == tokens:
            return leaf
    return None
