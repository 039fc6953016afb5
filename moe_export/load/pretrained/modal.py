"""Blocks with a set of experts for text and another for images, each run on its own tokens."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn


def split_by_kind(model: nn.Module) -> None:
    """Let each such block of ``model`` hand its two sets rows ``[T, H]`` and take rows back.

    The block computes what it did before, for any mixture of tokens; sets that get no token run on
    none.
    """
    blocks: list[Any] = [module for module in model.modules() if _has_two_sets(module)]
    for block in blocks:
        kind: Any = type(block)
        block.__class__ = _splitting(kind)
        for modality, experts in (("text", block.text_moe), ("image", block.vision_moe)):
            kind = type(experts)
            experts.__class__ = _of_rows(kind, modality)


def _has_two_sets(module: nn.Module) -> bool:
    """Whether it is such a block, as the source has it."""
    children = dict(module.named_children()).keys()
    return {"text_moe", "vision_moe"} <= children and not hasattr(module, "is_split")


@cache
def _splitting(block: type[nn.Module]) -> type[nn.Module]:
    """The same class, whose choice among its sets is written without the number of their tokens."""

    def forward(
        self: Any, hidden_states: Tensor, moe_mm_token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, None]:
        rows = hidden_states.flatten(0, -2)
        kinds = moe_mm_token_type_ids
        if kinds is None:
            kinds = torch.zeros(hidden_states.shape[:-1], dtype=torch.int64)
        is_image = kinds.flatten() > 0
        made = torch.zeros_like(rows)
        for experts, chosen in ((self.text_moe, ~is_image), (self.vision_moe, is_image)):
            places = chosen.nonzero().squeeze(1)
            made = made.index_copy(0, places, experts(rows.index_select(0, places)))
        y = made.view_as(hidden_states)
        if self.shared_experts is not None:
            y = y + self.shared_experts(hidden_states)
        return y, None

    return _kind(block, forward=forward, is_split=True)


@cache
def _of_rows(experts: type[nn.Module], modality: str) -> type[nn.Module]:
    """The same class, which returns ``[T, H]`` where the source returns one long vector.

    It says what its rows are of.
    """

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        made: Tensor = cast(Any, experts).forward(self, hidden_states)[0]
        return made.view_as(hidden_states)

    return _kind(experts, forward=forward, modality=modality)


def _kind(source: type[nn.Module], **own: Any) -> type[nn.Module]:
    return cast(type[nn.Module], type(source.__name__, (source,), own))
