"""The module that replaces a proven block: row programs, one router op, one experts op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from moe_export.moe import reference
from moe_export.moe.recipe import Recipe
from moe_export.rewrite import torch_ops  # noqa: F401 - registers the ops
from moe_export.rewrite.proposal import Leaf, Proposal
from moe_export.rewrite.rows import tensor_named

_ROLES = ("up", "down", "up_bias", "down_bias", "correction_bias", "expert_scale")


class FusedMoE(nn.Module):
    """A block ``[..., H] -> [..., Hout]`` as ``Router`` and ``Experts``.

    It returns what the original returned.  A returned tensor that the proposal calls ``unused``
    holds NaN, so that a model which does read it can only fail its parity check, never be a
    little wrong.

    With a ``name`` the values inside are marked by ``probe`` ops, for capture to find.
    ``replayed_ids [T, K]`` overrides the choice of experts and leaves the weights to the router.
    """

    logits: nn.Module
    hidden: nn.Module | None
    after: nn.Module | None
    middle: nn.Module | None
    up: Tensor | None
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    correction_bias: Tensor | None
    expert_scale: Tensor | None

    def __init__(
        self, proposal: Proposal, block: nn.Module, weights: Mapping[str, Tensor], name: str = ""
    ) -> None:
        super().__init__()
        self.proposal = proposal
        self.name = name
        self.logits = proposal.logits.on(block)
        self.hidden = None if proposal.hidden is None else proposal.hidden.on(block)
        self.shared = nn.ModuleList(rows.on(block) for rows in proposal.shared)
        self.after = None if proposal.after is None else proposal.after.on(block)
        self.middle = None if proposal.middle is None else proposal.middle.on(block)
        self.returned = nn.ModuleDict(
            {
                f"{number}": leaf.rows.on(block)
                for number, leaf in enumerate(tree_leaves(proposal.output))
                if isinstance(leaf, Leaf) and leaf.rows is not None
            }
        )
        for role in _ROLES:
            tensor = weights.get(role)
            parameter = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
            self.register_parameter(role, parameter)
        self.replayed_ids: Tensor | None = None
        self.seen: dict[str, Tensor] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Route and mix the rows of the one tensor given, ``[..., H]``."""
        x = next(given for given in (*args, *kwargs.values()) if isinstance(given, Tensor))
        rows = x.reshape(-1, x.shape[-1])
        tensors = self.watch(rows)
        y = self.mix(tensors["x"], tensors["topk_ids"], tensors["topk_weights"])
        y = self._probe("experts_y", y)
        tensors["y"] = self._probe("y", self.finish(rows, y))
        leaves, tree = tree_flatten(self.proposal.output)
        values = []
        for number, leaf in enumerate(leaves):
            if f"{number}" in self.returned:
                tensors["rows"] = self.returned[f"{number}"](rows)
            values.append(_returned(leaf, tensors, x))
        return tree_unflatten(values, tree)

    def finish(self, rows: Tensor, routed: Tensor) -> Tensor:
        """The block's output ``[T, Hout]`` for its input rows and the routed sum of its experts."""
        y = routed
        for shared in self.shared:
            y = y + shared(rows)
        return y if self.after is None else self.after(rows, y)

    def watch(self, rows: Tensor) -> dict[str, Tensor]:
        """What enters the experts for ``rows [T, H]``: their input and the routing."""
        hidden = self._probe("x", rows if self.hidden is None else self.hidden(rows))
        logits = self._probe("router_logits", self.logits(rows))
        topk_weights, topk_ids = self.route(logits)
        return {
            "x": hidden,
            "router_logits": logits,
            "topk_ids": self._probe("topk_ids", topk_ids),
            "topk_weights": self._probe("topk_weights", topk_weights),
        }

    def route(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """``topk_weights [T, K]`` and ``topk_ids [T, K]``."""
        router = self.proposal.layer.router
        vectors = (self.correction_bias, self.expert_scale)
        if self.replayed_ids is not None:
            bias, scale = (None if v is None else v.detach().numpy() for v in vectors)
            chosen = self.replayed_ids.numpy()
            replayed, _ = reference.route(
                logits.numpy(), router, correction_bias=bias, expert_scale=scale, topk_ids=chosen
            )
            return torch.from_numpy(replayed), self.replayed_ids
        weights, ids = torch.ops.moe_export.router(logits, *vectors, **router.attributes())
        return weights, ids

    def mix(self, hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor) -> Tensor:
        """The routed sum ``[T, Hout]`` of the experts on ``hidden [T, H]``."""
        if self.middle is not None:
            return self._mix_in_steps(self.middle, hidden, topk_ids, topk_weights)
        y: Tensor = torch.ops.moe_export.experts(
            hidden,
            topk_ids,
            topk_weights,
            self.up,
            self.down,
            self.up_bias,
            self.down_bias,
            None,
            None,
            None,
            None,
            **self.proposal.layer.experts.attributes(),
        )
        return y

    def _mix_in_steps(
        self, middle: nn.Module, hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor
    ) -> Tensor:
        """The same in three ops, with the middle in standard operators on the sorted rows."""
        ops = torch.ops.moe_export
        experts = self.proposal.layer.experts.num_experts
        order, offsets = ops.dispatch(topk_ids, num_experts=experts)
        token = order.to(torch.int64) // topk_ids.shape[1]
        inner = middle(ops.grouped_matmul(hidden[token], offsets, self.up, self.up_bias))
        y_sorted = ops.grouped_matmul(inner, offsets, self.down, self.down_bias)
        y: Tensor = ops.combine(y_sorted, order, topk_weights)
        return y

    def _probe(self, role: str, tensor: Tensor) -> Tensor:
        if not self.name:
            self.seen[role] = tensor
            return tensor
        marked: Tensor = torch.ops.moe_export.probe(tensor, f"{self.name}/{role}")
        return marked


def fused(proposal: Proposal, block: nn.Module) -> FusedMoE:
    """The replacement with real weights, built from the tensors of ``block``."""
    weights = {role: built(recipe, block) for role, recipe in proposal.weights.items()}
    return FusedMoE(proposal, block, weights)


def built(recipe: Recipe, block: nn.Module) -> Tensor:
    """The weight that a recipe makes of the tensors of ``block``."""
    array = recipe.build(lambda name: tensor_named(block, name).detach().numpy())
    return torch.from_numpy(array)


def placeholder(recipe: Recipe, dtype: torch.dtype) -> Tensor:
    """A tensor of the recipe's shape that takes the memory of one number."""
    return torch.zeros((), dtype=dtype).expand(recipe.shape)


def _returned(leaf: Any, tensors: Mapping[str, Tensor], x: Tensor) -> Any:
    if not isinstance(leaf, Leaf):
        return leaf
    if leaf.kind == "unused":
        return torch.full(leaf.shape or (), float("nan"), dtype=x.dtype)
    tensor = tensors[leaf.kind]
    if leaf.dtype is not None and not leaf.dtype.is_floating_point:
        tensor = tensor.to(leaf.dtype)
    return tensor if leaf.flat else tensor.reshape(*x.shape[:-1], tensor.shape[-1])
