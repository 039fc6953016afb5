"""Where a case that fails first leaves its envelope, and what on the line from eager did it.

The line has three differences: eager model to rewritten model (``rewrite``), rewritten model to
graph (``lowering``, or ``router`` where it is the routing), and the graph's ops to what runs them
(``kernel``).  A layer's numbers are looked at in the order in which they are computed, so that the
first that differ were made of numbers that agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from moe_export.forms import Attribution, RoutingParity, TensorParity, block_name
from moe_export.validate.experts import ExpertsRun
from moe_export.validate.oracle import Oracle
from moe_export.validate.routing import logits_parity
from moe_export.validate.runs import Run
from moe_export.validate.tensors import is_rewritten_otherwise

if TYPE_CHECKING:
    from moe_export.manifest import ComponentRecord
    from moe_export.runtime.bundle import Bundle

_BESIDE = (
    "its experts are right on synthetic tokens, so it is what the graph has beside them, such as a "
    "shared expert, or what it brings to them"
)
_NOT_TOLD_APART = (
    "its experts are no single op that can be checked alone: lowering and kernel are not told apart"
)


@dataclass(frozen=True)
class Finding:
    """What was found at one place, before it is said where that is."""

    cause: str
    at: str
    """The MoE layer or the output."""

    module: str
    words: str


class Places:
    """The modules behind the layers of one component, and its ops for the oracle."""

    def __init__(self, bundle: Bundle, component: str) -> None:
        self._bundle, self.component = bundle, component
        self.record: ComponentRecord = bundle.component(component)
        self._paths = {block.name: block.path for block in bundle.manifest.blocks}

    @cached_property
    def of_cases(self) -> Oracle:
        """For the graph that golden cases run through."""
        return Oracle(self._bundle, self.component, "probe")

    @cached_property
    def of_experts(self) -> Oracle:
        """For the graph of experts alone."""
        return Oracle(self._bundle, self.component, "experts")

    def block(self, layer: str) -> str:
        """The path of the module that a layer stands for."""
        name = block_name(layer, self._paths)
        return self._paths.get(name, layer)

    def around(self, layer: str) -> str:
        """The path of the innermost module around a layer that has a source, else of the model."""
        path = self.block(layer)
        while path:
            path = path.rpartition(".")[0]
            if path in self.record.modules:
                return path
        return ""

    def attribution(self, case: str, found: Finding) -> Attribution:
        """What was found, with the place where the module's class is written."""
        return Attribution(
            case=case,
            component=self.component,
            cause=found.cause,
            layer=found.at,
            module=found.module,
            source=self.record.modules.get(found.module),
            words=found.words,
        )


@dataclass(frozen=True)
class Evidence:
    """All comparisons of one golden case, and the run they are of."""

    run: Run
    layers: Mapping[str, TensorParity]
    """What enters each layer's experts and what leaves it, by ``<layer>/x`` and ``<layer>/y``."""

    outputs: Mapping[str, TensorParity]
    routing: Mapping[str, RoutingParity]
    """In the order in which the graph computes the layers."""

    routed_by: Mapping[str, Run] = field(default_factory=dict)
    """By layer, the run whose routing was compared, where it is another one."""

    @property
    def passed(self) -> bool:
        """Whether nothing was found to be wrong."""
        parts = (self.layers, self.outputs, self.routing)
        return all(each.passed for part in parts for each in part.values())


def attribute(
    compared: Iterable[Evidence], alone: Sequence[ExpertsRun], places: Places
) -> list[Attribution]:
    """One attribution for each case that fails: golden cases, then those of experts alone."""
    wrong = {run.layer for run in alone if not run.parity.passed}
    right = {run.layer for run in alone} - wrong
    cases = [_of_case(evidence, places, right) for evidence in compared]
    return [found for found in cases if found is not None] + _of_experts(alone, places)


def _of_case(evidence: Evidence, places: Places, right_alone: Set[str]) -> Attribution | None:
    """The first layer of a golden case that fails, or else the first output; else ``None``.

    ``right_alone`` are the layers whose experts are right on synthetic tokens.
    """
    before: str | None = None
    for layer in evidence.routing:
        found = (
            _entered(evidence, places, layer, before)
            or _routed(evidence, places, layer)
            or _mixed(evidence, places, layer, is_right_alone=layer in right_alone)
        )
        if found is not None:
            return places.attribution(evidence.run.case.name, found)
        before = layer
    for tensor in evidence.outputs.values():
        if not tensor.passed:
            found = _left(tensor, before)
            return places.attribution(evidence.run.case.name, found)
    return None


def _of_experts(runs: Iterable[ExpertsRun], places: Places) -> list[Attribution]:
    """For each case of experts alone that fails, the first layer that does."""
    order = {layer: number for number, layer in enumerate(places.record.layers)}
    made: dict[str, Attribution] = {}
    for run in sorted(runs, key=lambda run: order[run.layer]):
        if run.parity.passed or run.name in made:
            continue
        case = run.case
        right = places.of_experts.experts_are_right(
            f"{run.layer}/experts_y", case.x, case.topk_ids, case.topk_weights, run.y
        )
        found = Finding(
            cause=_cause(right),
            at=run.layer,
            module=places.block(run.layer),
            words=f"the experts alone are {_used(run.parity)} on synthetic tokens; {_said(right)}",
        )
        made[run.name] = places.attribution(run.name, found)
    return list(made.values())


def _entered(evidence: Evidence, places: Places, layer: str, before: str | None) -> Finding | None:
    tensor = evidence.layers[f"{layer}/x"]
    if tensor.passed:
        return None
    since = "before the first MoE layer" if before is None else f"behind {before}, which agrees,"
    if is_rewritten_otherwise(tensor):
        return Finding("rewrite", layer, places.around(layer), f"{since}, {_rewritten(tensor)}")
    words = (
        f"what enters the experts is {_used(tensor)}: it became so {since} outside of MoE layers"
    )
    return Finding("lowering", layer, places.around(layer), words)


def _routed(evidence: Evidence, places: Places, layer: str) -> Finding | None:
    parity = evidence.routing[layer]
    if parity.passed:
        return None
    run = evidence.routed_by.get(layer, evidence.run)
    names, logits = run.probes[layer], run.rows(layer, "router_logits")
    error, tolerance = logits_parity(run.case.layers[layer], run.router_logits(layer))
    if error > tolerance:
        words = f"the router's input agrees and its logits are off by {_share(error, tolerance)}"
        x = run.rows(layer, "x")
        right = places.of_cases.logits_are_right(names["router_logits"], names["x"], x, logits)
    else:
        words = "the router's logits agree and what it makes of them does not: "
        words += _differing(parity)
        ids, weights = run.decided(layer)
        right = places.of_cases.router_is_right(names["topk_ids"], logits, ids, weights)
    if right is False:
        return Finding("kernel", layer, places.block(layer), f"{words}; {_said(right)}")
    return Finding("router", layer, places.block(layer), words)


def _mixed(
    evidence: Evidence, places: Places, layer: str, *, is_right_alone: bool
) -> Finding | None:
    tensor = evidence.layers[f"{layer}/y"]
    if tensor.passed:
        return None
    module = places.block(layer)
    if is_rewritten_otherwise(tensor):
        return Finding("rewrite", layer, module, f"at equal input {_rewritten(tensor)}")
    run = evidence.run
    experts_y = run.rows(layer, "experts_y")
    right = places.of_cases.experts_are_right(
        run.probes[layer]["experts_y"], run.rows(layer, "x"), *run.served(layer), experts_y
    )
    words = f"input and routing agree, the block's output is {_used(tensor)}; "
    if is_right_alone and right is not False:
        return Finding("lowering", layer, module, words + _BESIDE)
    return Finding(_cause(right), layer, module, words + _said(right))


def _left(tensor: TensorParity, before: str | None) -> Finding:
    since = "no MoE layer is before it" if before is None else "all MoE layers before it agree"
    if is_rewritten_otherwise(tensor):
        return Finding("rewrite", tensor.name, "", f"{since}, {_rewritten(tensor)}")
    return Finding("lowering", tensor.name, "", f"{since}, the output is {_used(tensor)}")


def _cause(right: bool | None) -> str:
    if right is None:
        return "unknown"
    return "lowering" if right else "kernel"


def _said(right: bool | None) -> str:
    if right is None:
        return _NOT_TOLD_APART
    if right:
        return (
            "the op computes what the graph says, so the graph or its weights are not the model's"
        )
    return (
        "the op does not compute what the graph says, by the oracle with the bundle's own weights"
    )


def _differing(parity: RoutingParity) -> str:
    unexplained = sum(not flip.explained for flip in parity.flips)
    if unexplained:
        return f"{unexplained} of {parity.tokens} tokens choose other experts"
    if parity.weight_error > parity.weight_tolerance:
        return f"topk_weights are off by {_share(parity.weight_error, parity.weight_tolerance)}"
    return "topk_ids has another shape"


def _used(tensor: TensorParity) -> str:
    error = max(tensor.max_error, tensor.replayed_error or 0.0)
    return f"off by {_share(error, tensor.tolerance)}"


def _share(error: float, tolerance: float) -> str:
    times = f", {error / tolerance:.3g} times its tolerance" if tolerance else ""
    return f"{error:.2g}{times}"


def _rewritten(tensor: TensorParity) -> str:
    return (
        f"the rewritten model in PyTorch is off by {tensor.rewritten_error or 0.0:.2g} "
        f"where the eager model is by {tensor.eager_error:.2g}"
    )
