"""Shared experts that are weighed by the router, as experts that every token chooses.

Such a router scores the shared experts beside the others, and the weights of those that are chosen
and of all shared ones together make one.  That is a router of all of them, whose shared experts
stand above every score.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a shared expert's score stands above all others by: a sigmoid is less than 1.
_ABOVE = 2.0


def route_shared(model: nn.Module) -> None:
    """Let the router of each such block of ``model`` choose among all its experts.

    The block computes what it did before.  Its shared experts are the last of its experts.
    """
    blocks: list[Any] = [module for module in model.modules() if _weighs_shared(module)]
    for block in blocks:
        router, experts, shared = block.gate, block.experts, block.shared_experts
        count = shared.gate_proj.shape[0]
        both = torch.cat([shared.gate_proj, shared.up_proj], dim=1)
        for name, more in (("gate_up_proj", both), ("down_proj", shared.down_proj)):
            made = torch.cat([getattr(experts, name).detach(), more.detach()])
            setattr(experts, name, nn.Parameter(made, requires_grad=False))
        experts.num_experts += count
        bias = router.e_score_correction_bias
        above = (bias.max() + _ABOVE).expand(count)
        router.e_score_correction_bias = torch.cat([bias, above])
        router.top_k += count
        del block.shared_experts
        kind: Any = type(router)
        router.__class__ = _choosing(kind)
        kind = type(block)
        block.__class__ = _routing(kind)


def _weighs_shared(module: nn.Module) -> bool:
    children = dict(module.named_children())
    return "shared_experts" in children and hasattr(children.get("gate"), "n_shared_experts")


@cache
def _choosing(router: type[nn.Module]) -> type[nn.Module]:
    """The same class, which makes no difference between its experts."""

    def forward(self: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        scores = F.linear(rows, self.weight).sigmoid()
        ids = (scores + self.e_score_correction_bias).topk(self.top_k, dim=-1).indices
        weights = scores.gather(-1, ids)
        return weights / weights.sum(-1, keepdim=True) * self.route_scale, ids

    return cast(type[nn.Module], type(router.__name__, (router,), {"forward": forward}))


@cache
def _routing(block: type[nn.Module]) -> type[nn.Module]:
    """The same class, which has no other experts; what scales all weights scales their sum."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        rows = hidden_states.flatten(0, -2)
        weights, ids = self.gate(rows)
        made: Tensor = self.experts(rows, ids, weights) * self.gate.global_scale
        return made.view_as(hidden_states)

    return cast(type[nn.Module], type(block.__name__, (block,), {"forward": forward}))
