"""A router that no op says: what it chose is found in an observation, and cut out as it is.

Experts are shared with the routers that the op knows.  What differs is where a choice comes from:
not from a hypothesis that the oracle runs, but from a pair of observed values, ``topk_ids`` and
``topk_weights``.  Where a module of experts is called with such a pair, as in Transformers, it is
among them; so it is where the block uses them itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from moe_export.moe.layer import RouterSpec
from moe_export.rewrite.evidence import Evidence, evidences
from moe_export.rewrite.hypotheses import RouterHypothesis
from moe_export.rewrite.mixtures import FITS, Fit, Routers, mixtures
from moe_export.rewrite.observe import Value
from moe_export.rewrite.proposal import Proposal, Refusal
from moe_export.rewrite.propose import proposal_of
from moe_export.rewrite.rows import NotRowwiseError, RowProgram
from moe_export.rewrite.tokens import TokenCutter

Array = npt.NDArray[Any]

_INTEGERS = (torch.int64, torch.int32)
_UNSAID = ("reshape", "slice", "sym_size", "scalar_tensor", "to", "_to_copy")
_NAMED = 6
"""Operators that are named for a person; a router has some ten to thirty."""


@dataclass(frozen=True)
class Picked(RouterHypothesis):
    """A router by the values of the observation that are its choice and its weights."""

    ids: int = -1
    weights: int | None = None
    """``None``: every chosen expert counts once."""

    is_dense: bool = False
    """Whether the weights are those of all experts, ``[T, E]``."""


def propose_kept(block: nn.Module, x: Tensor, because: str) -> Proposal | Refusal:
    """The block with its own router, of operators as they are, and experts that the ops know.

    ``because`` says why no router of the op will do.
    """
    refusal = Refusal(because)
    for evidence in evidences(block, x):
        for fit, picked, choice in _fits(evidence):
            try:
                program = _program(evidence, picked)
            except NotRowwiseError as error:
                refusal = Refusal(f"{because}; its own router cannot be kept: {error}")
                continue
            spec = replace(picked.spec, kept=_words(program))
            proposal = proposal_of(
                evidence, replace(fit, router=replace(picked, spec=spec)), *choice
            )
            return replace(proposal, kept=program, why_kept=because)
    return refusal


def _fits(evidence: Evidence) -> Iterator[tuple[Fit, Picked, tuple[Array, Array]]]:
    """What reproduces the observed sum, with the choice that does."""
    own = _tensors_of_experts(evidence)
    choices = tuple(_choices(evidence, own))
    routers = Routers(evidence.router_width, evidence.routed, (), choices)
    by_router = {picked: (weights, ids) for picked, weights, ids in choices}
    for fit in mixtures(evidence, routers, _tensors_of_router(evidence, choices)):
        if fit.error <= FITS and isinstance(fit.router, Picked):
            yield fit, fit.router, by_router[fit.router]


def _choices(evidence: Evidence, own: set[int]) -> Iterator[tuple[Picked, Array, Array]]:
    """Pairs of observed values that may be a choice and its weights, each numbers once.

    ``own`` are values that depend on the experts' matrices: no router's.
    """
    width = evidence.router_width
    routed = evidence.observation.descendants(evidence.anatomy.logits_value)
    values = [value for value in evidence.observation.values if value.index not in own]
    for ids in _distinct(evidence, [v for v in values if v.data.dtype in _INTEGERS]):
        chosen = evidence.rows(ids.index)
        top_k = chosen.shape[1]
        if ids.index not in routed or top_k > width or chosen.min() < 0 or chosen.max() >= width:
            continue
        spec = RouterSpec(num_experts=width, top_k=top_k)
        floats = _distinct(evidence, [v for v in values if v.data.is_floating_point()])
        for weights in floats:
            rows = evidence.rows(weights.index)
            if rows.shape == chosen.shape:
                yield Picked(spec, ids=ids.index, weights=weights.index), rows, chosen
        for weights in floats:
            rows = evidence.rows(weights.index)
            if rows.shape[1] == width and weights.index in routed:
                picked = Picked(spec, ids=ids.index, weights=weights.index, is_dense=True)
                yield picked, np.take_along_axis(rows, chosen, axis=1), chosen
        yield Picked(spec, ids=ids.index), np.ones(chosen.shape), chosen


def _distinct(evidence: Evidence, values: list[Value]) -> list[Value]:
    """Values that have numbers for each token, the first of those that hold the same."""
    found: dict[tuple[Any, ...], Value] = {}
    tokens = len(evidence.rows(evidence.observation.input))
    for value in values:
        data = value.data
        if value.name is None and data.dim() and data.numel() and data.numel() % tokens == 0:
            rows = evidence.rows(value.index)
            if rows.shape[1] <= evidence.router_width:
                found.setdefault((rows.shape, rows.tobytes()), value)
    return list(found.values())


def _tensors_of_experts(evidence: Evidence) -> set[int]:
    """Values that depend on the experts' matrices."""
    names = {name for slot in evidence.group.matrices for name in slot.sources()}
    own = [value.index for value in evidence.observation.values if value.name in names]
    return {*own, *evidence.observation.descendants(*own)}


def _tensors_of_router(
    evidence: Evidence, choices: tuple[tuple[Picked, Array, Array], ...]
) -> set[str]:
    """Names of what any of the choices is made of."""
    ends = {index for picked, _, _ in choices for index in (picked.ids, picked.weights)}
    before = {i for end in ends if end is not None for i in evidence.observation.ancestors(end)}
    names = (evidence.observation.values[index].name for index in before)
    return {name for name in names if name is not None}


def _program(evidence: Evidence, picked: Picked) -> RowProgram:
    """``(rows, logits) -> (topk_weights, topk_ids)``."""
    cutter = TokenCutter(evidence.observation, evidence.anatomy.logits_value)
    top_k, width = picked.spec.top_k, evidence.router_width
    ids = cutter.as_columns(picked.ids, top_k)
    aten = torch.ops.aten
    if picked.weights is None:
        weights = cutter.graph.call_function(
            aten.ones_like.default, (ids,), {"dtype": torch.float32}
        )
    elif picked.is_dense:
        dense = cutter.as_columns(picked.weights, width)
        places = cutter.graph.call_function(aten.to.dtype, (ids, torch.int64))
        weights = cutter.graph.call_function(aten.gather.default, (dense, -1, places))
    else:
        weights = cutter.as_columns(picked.weights, top_k)
    return cutter.program(weights, ids)


def _words(program: RowProgram) -> str:
    """Its operators, for a person."""
    calls = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    names = (call.split(".")[1] for call in calls if call.startswith(("aten.", "moe_export.")))
    kept = list(dict.fromkeys(n for n in names if n not in _UNSAID))
    more = len(kept) - _NAMED
    return "+".join(kept[:_NAMED]).replace("_softmax", "softmax") + (
        f" and {more} more" if more > 0 else ""
    )
