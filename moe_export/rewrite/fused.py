"""The module that replaces a proven block: row programs, one router op, one experts op."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from moe_export.errors import UnsupportedError
from moe_export.forms import OWN_NUMBERS
from moe_export.lazy import made_of, real
from moe_export.moe import reference
from moe_export.moe.layer import AttributeValue
from moe_export.moe.quantize import Precision
from moe_export.moe.recipe import Recipe
from moe_export.ondisk import Spool
from moe_export.rewrite import torch_ops
from moe_export.rewrite.edges import round_rows
from moe_export.rewrite.proposal import Leaf, Proposal
from moe_export.rewrite.rows import tensor_named
from moe_export.rewrite.torch_linear import Stored, grouped_linear

_ROLES = ("up", "down", "up_bias", "down_bias", "correction_bias", "expert_scale")
_STORED_ROLES = ("up_scales", "up_zeros", "down_scales", "down_zeros")


class _OfRun(threading.local):
    """What one run of a layer is told, and what it sees; every thread has its own."""

    replayed: Callable[[], Mapping[str, Tensor]] | None = None
    edge_shift: float = 0.0

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _OfRun:
        return _OfRun()


class FusedMoE(nn.Module):
    """A block ``[..., H] -> [..., Hout]`` as ``Router``, or the router it has, and ``Experts``.

    It returns what the original returned.  A returned tensor that the proposal calls ``unused``
    holds NaN, so that a model which does read it can only fail its parity check, never be a
    little wrong.

    With a ``name`` the values inside are marked by ``probe`` ops, for capture to find.
    ``replayed`` gives what an earlier run saw: its experts are chosen, ``[T, K]``, and the weights
    are left to the router.  One that is kept has weights for its own choice alone: where that is
    another, those of the earlier run are taken.
    In a ``precision`` the matrices are ``weights`` as it stores them, and rows are rounded as it
    says, with all edges moved by ``edge_shift`` where that is not 0.
    """

    logits: nn.Module
    kept: nn.Module | None
    hidden: nn.Module | None
    after: nn.Module | None
    middle: nn.Module | None
    behind: nn.Module | None
    up: Tensor | None
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    correction_bias: Tensor | None
    expert_scale: Tensor | None

    def __init__(
        self,
        proposal: Proposal,
        block: nn.Module,
        weights: Mapping[str, Tensor],
        *,
        name: str = "",
        precision: Precision = OWN_NUMBERS,
    ) -> None:
        super().__init__()
        self.proposal = proposal
        self.name = name
        self.precision = precision
        self.logits = proposal.logits.on(block)
        self.kept = None if proposal.kept is None else proposal.kept.on(block)
        self.hidden = None if proposal.hidden is None else proposal.hidden.on(block)
        self.shared = nn.ModuleList(rows.on(block) for rows in proposal.shared)
        self.after = None if proposal.after is None else proposal.after.on(block)
        self.middle = None if proposal.middle is None else proposal.middle.on(block)
        self.behind = None if proposal.behind is None else proposal.behind.on(block)
        self.returned = nn.ModuleDict(
            {
                f"{number}": leaf.rows.on(block)
                for number, leaf in enumerate(tree_leaves(proposal.output))
                if isinstance(leaf, Leaf) and leaf.rows is not None
            }
        )
        for role in _ROLES + _STORED_ROLES:
            tensor = weights.get(role)
            parameter = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
            self.register_parameter(role, parameter)
        self._of_run = _OfRun()

    @property
    def replayed(self) -> Callable[[], Mapping[str, Tensor]] | None:
        """What gives the experts of this run, in place of the router's choice."""
        return self._of_run.replayed

    @replayed.setter
    def replayed(self, gives: Callable[[], Mapping[str, Tensor]] | None) -> None:
        self._of_run.replayed = gives

    @property
    def edge_shift(self) -> float:
        """How far this run moves the edges at which rows are rounded."""
        return self._of_run.edge_shift

    @edge_shift.setter
    def edge_shift(self, shift: float) -> None:
        self._of_run.edge_shift = shift

    @property
    def seen(self) -> dict[str, Tensor]:
        """What this run saw, by role."""
        return self._of_run.seen

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Route and mix the rows of the one tensor given, ``[..., H]``."""
        x = next(given for given in (*args, *kwargs.values()) if isinstance(given, Tensor))
        rows = x.reshape(-1, x.shape[-1])
        tensors = self.watch(rows)
        routed = (tensors["x"], tensors["topk_ids"], tensors["topk_weights"])
        y = self._probe("experts_y", self.mix(*routed))
        y = self.with_identities(y, *routed)
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

    def with_identities(
        self, y: Tensor, hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor
    ) -> Tensor:
        """``y`` and the weighted rows of the chosen experts that give back what they get."""
        layer = self.proposal.layer
        if not layer.identity_experts:
            return y
        gives_back = topk_ids >= layer.experts.num_experts
        return y + hidden * torch.where(gives_back, topk_weights, 0).sum(dim=-1, keepdim=True)

    def watch(self, rows: Tensor) -> dict[str, Tensor]:
        """What enters the experts for ``rows [T, H]``: their input and the routing."""
        hidden = self._probe("x", rows if self.hidden is None else self.hidden(rows))
        logits = self._probe("router_logits", self.logits(rows))
        topk_weights, topk_ids = self.route(rows, logits)
        return {
            "x": hidden,
            "router_logits": logits,
            "topk_ids": self._probe("topk_ids", topk_ids),
            "topk_weights": self._probe("topk_weights", topk_weights),
        }

    def route(self, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """``topk_weights [T, K]`` and ``topk_ids [T, K]`` of the block's rows and their logits."""
        if self.kept is not None:
            weights, ids = self._kept(rows, logits)
            if self.replayed is not None:
                return _as_replayed(weights, ids, self.replayed())
            return weights, ids
        router = self.proposal.layer.router
        vectors = (self.correction_bias, self.expert_scale)
        if self.replayed is not None:
            bias, scale = (None if v is None else real(v.detach()).numpy() for v in vectors)
            ids = self.replayed()["topk_ids"]
            replayed, _ = reference.route(
                logits.numpy(),
                router,
                correction_bias=bias,
                expert_scale=scale,
                topk_ids=ids.numpy(),
            )
            return torch.from_numpy(replayed), ids
        weights, ids = torch.ops.moe_export.router(logits, *vectors, **router.attributes())
        return weights, ids

    def _kept(self, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What the block's own router decides, in the types that the ops take."""
        assert self.kept is not None  # noqa: S101 - asked before
        weights, ids = self.kept(rows, logits)
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        return weights.to(dtype), ids.to(torch.int32)

    def mix(self, hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor) -> Tensor:
        """The routed sum ``[T, Hout]`` of the experts on ``hidden [T, H]``."""
        if self.edge_shift:
            return self._mix_at_moved_edges(hidden, topk_ids, topk_weights)
        if self.middle is not None:
            return self._mix_in_steps(hidden, topk_ids, topk_weights)
        y: Tensor = torch.ops.moe_export.experts(
            hidden,
            topk_ids,
            topk_weights,
            self.up,
            self.down,
            self.up_bias,
            self.down_bias,
            *(getattr(self, role) for role in _STORED_ROLES),
            **self.proposal.layer.experts.attributes() | self._stored_as(),
        )
        return y

    def _mix_in_steps(self, hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor) -> Tensor:
        """The same in three ops, with what the op has no name for in standard operators."""
        ops, experts = torch.ops.moe_export, self.proposal.layer.experts
        order, offsets = ops.dispatch(topk_ids, num_experts=experts.num_experts)
        assignment = order.to(torch.int64)
        rows = hidden[assignment // topk_ids.shape[1]]
        if experts.weight_on == "input":
            rows = rows * topk_weights.reshape(-1, 1)[assignment]
            topk_weights = torch.ones_like(topk_weights)
        if self.up is not None:
            rows = self._between(self._product("up", rows, offsets))
        rows = self._product("down", rows, offsets)
        if self.behind is not None:
            rows = self.behind(rows)
        y: Tensor = ops.combine(rows, order, topk_weights)
        return y

    def _product(self, role: str, rows: Tensor, offsets: Tensor) -> Tensor:
        """Each expert's matrix on its sorted rows, which are rounded first."""
        tensors = self._parts_of(role)
        y: Tensor = torch.ops.moe_export.grouped_matmul(
            rows, offsets, *tensors, **self._stored_as()
        )
        return y

    def _parts_of(self, role: str) -> list[Tensor | None]:
        return [getattr(self, f"{role}{part}") for part in ("", "_bias", "_scales", "_zeros")]

    def _mix_at_moved_edges(self, hidden: Tensor, topk_ids: Tensor, topk_weights: Tensor) -> Tensor:
        """The same with rows rounded here, at edges that are moved."""
        precision, shift = self.precision, self.edge_shift

        def product(stored: Stored, rows: Tensor, offsets: Sequence[int]) -> Tensor:
            moved = round_rows(rows, precision.row_format, shift)
            return grouped_linear(moved, offsets, stored, precision.block_size, "f32")

        weight_on = self.proposal.layer.experts.weight_on
        up = None if self.up is None else Stored(self.up, *self._parts_of("up")[1:])
        down = Stored(self.down, *self._parts_of("down")[1:])
        return torch_ops.mixed(
            hidden, topk_ids, topk_weights, weight_on, up, down, self._between, product, self.behind
        )

    def _between(self, rows: Tensor) -> Tensor:
        if self.middle is not None:
            made: Tensor = self.middle(rows)
            return made
        experts = self.proposal.layer.experts
        return torch_ops.activated(
            rows,
            experts.activation,
            int(experts.gated),
            experts.gate_layout,
            experts.alpha,
            experts.limit,
        )

    def _stored_as(self) -> dict[str, AttributeValue]:
        """How the ops are to read the matrices and round the rows."""
        return {
            "weight_format": self.precision.format,
            "block_size": self.precision.block_size,
            "row_format": self.precision.row_format,
        }

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


def rounded(
    proposal: Proposal,
    block: nn.Module,
    source: nn.Module,
    precision: Precision,
    spool: Spool,
    name: str,
) -> FusedMoE:
    """The replacement with its experts' matrices in a precision, all else from ``block``.

    ``source`` is the block as the model has it, and what is quantised is its numbers: ``block`` may
    be a copy in another dtype.  They are kept in the spool as ``<name>.<role>``.  Raises
    ``UnsupportedError`` where the precision cannot hold one.
    """
    weights: dict[str, Tensor] = {}
    for role, recipe in proposal.weights.items():
        if role not in ("up", "down"):
            weights[role] = built(recipe, block)
            continue
        try:
            parts = spool.quantized(f"{name}.{role}", built(recipe, source), precision)
        except ValueError as error:
            raise UnsupportedError(
                f"precision {precision} cannot store the experts: {error}",
                where=f"{role} of a {type(source).__name__}, made of {recipe.sources()[0]}",
                hint="choose another --precision; bf16 has the range of float32",
            ) from error
        weights[role] = parts["values"]
        weights |= {f"{role}_{part}": parts[part] for part in ("scales", "zeros") if part in parts}
    return FusedMoE(proposal, block, weights, precision=precision)


def built(recipe: Recipe, block: nn.Module) -> Tensor:
    """The weight that a recipe makes of the tensors of ``block``, as lazy as they are."""
    return made_of(recipe, lambda name: tensor_named(block, name).detach())


def placeholder(recipe: Recipe, dtype: torch.dtype) -> Tensor:
    """A tensor of the recipe's shape that takes the memory of one number."""
    return torch.zeros((), dtype=dtype).expand(recipe.shape)


def _as_replayed(
    weights: Tensor, ids: Tensor, replayed: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The replayed choice with the weights of one's own, where that chooses the same experts."""
    wanted, given = replayed["topk_ids"], replayed["topk_weights"].to(weights.dtype)
    order, own_order = (x.argsort(dim=1, stable=True) for x in (wanted, ids))
    same = (wanted.gather(1, order) == ids.gather(1, own_order)).all(1, keepdim=True)
    aligned = torch.empty_like(weights).scatter(1, order, weights.gather(1, own_order))
    return torch.where(same, aligned, given), wanted


def _returned(leaf: Any, tensors: Mapping[str, Tensor], x: Tensor) -> Any:
    if not isinstance(leaf, Leaf):
        return leaf
    if leaf.kind == "unused":
        return torch.full(leaf.shape or (), float("nan"), dtype=x.dtype)
    tensor = tensors[leaf.kind]
    if leaf.dtype is not None and not leaf.dtype.is_floating_point:
        tensor = tensor.to(leaf.dtype)
    return tensor if leaf.flat else tensor.reshape(*x.shape[:-1], tensor.shape[-1])
