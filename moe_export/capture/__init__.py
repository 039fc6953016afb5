"""From PyTorch to a portable graph, with the eager model's own numbers beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from moe_export.capture.clean import clean, name_nodes, take_probes
from moe_export.capture.completeness import unused_tensors
from moe_export.capture.continuation import continuations
from moe_export.capture.eager import DECODER, EagerParts, eager_parts
from moe_export.capture.golden import EXAMPLE_CASE, fresh_inputs, golden_inputs, record
from moe_export.capture.look import look_at
from moe_export.capture.looped import require_these_passes
from moe_export.capture.precision import DENSE, dense_weights, give_precision, router_weights
from moe_export.capture.trace import trace
from moe_export.capture.watch import Rounding
from moe_export.capture.weights import take_weights
from moe_export.capture.whereabouts import whereabouts
from moe_export.forms import (
    MAIN_COMPONENT,
    OWN_NUMBERS,
    Array,
    Asked,
    Component,
    Continuation,
    Given,
    Golden,
    MarkedModel,
    PortableModel,
    RoundingCost,
)
from moe_export.lazy import cores_for
from moe_export.moe.quantize import Precision

__all__ = ["Rounding", "capture", "capture_live"]


def capture(
    model: MarkedModel,
    precision: Precision = OWN_NUMBERS,
    dense_precision: Precision = OWN_NUMBERS,
) -> PortableModel:
    """Graphs in ``moe_export`` ops and standard ONNX, one for each part, with golden tensors.

    *Requires* marked parts whose ``forward`` runs on their example inputs.
    *Ensures* that batch, sequence and every other axis the model lets vary are symbolic; that the
    eager model ran on sizes the tracer did not see; that every parameter and buffer is in a
    graph or listed as unused with the reason; and that the experts of the graphs and those of the
    golden tensors are in ``precision``, their other products in ``dense_precision``.

    Raises ``CaptureError``, ``RewriteError``, ``CompletenessError``, or ``UnsupportedError`` for a
    weight that the precision does not hold.
    """
    with cores_for(model.loaded.module):
        parts = [_part(part, precision, dense_precision) for part in model.parts]
        said = _continuations(model, parts, model.loaded.asked)
    blocks = tuple(block for part in model.parts for block in part.blocks)
    weights = [weight for part in parts for weight in part.component.weights.values()]
    read = {name for part in parts for name in part.read}
    loaded = model.loaded
    return PortableModel(
        components={part.name: part.component for part in parts},
        golden=_together([part.golden for part in parts], said),
        blocks=blocks,
        unused={**unused_tensors(loaded, weights, blocks, read), **loaded.left_out},
        parameters=sum(parameter.numel() for parameter in loaded.module.parameters()),
        assets=loaded.assets,
        source=loaded.source,
        precision=precision,
        dense_precision=dense_precision,
        rounding=_all_costs([part.rounding for part in parts if part.rounding is not None]),
    )


@dataclass(frozen=True)
class _LiveCase:
    """Inputs of one run of a part, and what its tokens are of, where that is known."""

    inputs: Mapping[str, torch.Tensor]
    modality: Array | None = None


@dataclass(frozen=True, kw_only=True)
class _Part:
    name: str
    component: Component
    golden: Golden
    rounding: RoundingCost | None
    read: set[str]
    names: list[str]
    """Of the outputs."""

    rounded: Rounding


def _part(model: MarkedModel, precision: Precision, dense: Precision) -> _Part:
    """One graph and what the eager part does, on its own."""
    loaded = model.loaded
    look = look_at(model)
    names = look.names
    traced = trace(model, names)
    weights = take_weights(traced.graph, model)  # first: what has no bytes cannot be folded away
    clean(traced.graph, traced.axes, weights, loaded.component)
    probes = take_probes(traced.graph)
    name_nodes(traced.graph, probes)
    kept = router_weights(model)
    dense_names = () if dense == OWN_NUMBERS else dense_weights(traced.graph, kept)
    stored = give_precision(traced.graph, weights, precision, model.spool)
    stored = give_precision(traced.graph, stored, dense, model.spool, DENSE, kept)
    rounding = Rounding(
        experts=precision if model.proven else OWN_NUMBERS, dense=dense, dense_names=dense_names
    )
    inputs = golden_inputs(model, traced.axes)
    golden, cost = record(model, inputs, names, rounding, loaded.modality)
    require_these_passes(golden, probes)
    return _Part(
        name=loaded.component,
        component=Component(
            graph=traced.graph,
            weights=stored,
            probes=probes,
            dense=dense_names,
            modules=whereabouts(loaded.module, [block.path for block in model.proven]),
        ),
        golden=golden,
        rounding=cost,
        read=look.read,
        names=names,
        rounded=rounding,
    )


def _continuations(
    model: MarkedModel, parts: list[_Part], asked: Mapping[str, Asked]
) -> tuple[Continuation, ...]:
    """What the eager parts, rounded as they are, say behind prompts."""
    if not asked:
        return ()
    roundings = {part.name: part.rounded for part in parts}
    names = {part.name: part.names for part in parts}
    return continuations(eager_parts(model, roundings, names), asked)


def _together(goldens: list[Golden], said: tuple[Continuation, ...] = ()) -> Golden:
    return Golden(
        continuations=said,
        cases=tuple(case for golden in goldens for case in golden.cases),
        experts={name: case for golden in goldens for name, case in golden.experts.items()},
    )


def _all_costs(costs: list[RoundingCost]) -> RoundingCost | None:
    """The outputs and layers of all parts; those of one part are not another's."""
    if not costs:
        return None
    return RoundingCost(
        outputs={name: cost for each in costs for name, cost in each.outputs.items()},
        routing={name: share for each in costs for name, share in each.routing.items()},
    )


def capture_live(
    model: MarkedModel,
    roundings: Mapping[str, Rounding],
    given: Given | None = None,
    *,
    seeds: tuple[int, ...] = (1, 2),
) -> Golden:
    """Golden tensors of the eager model on inputs that no bundle has seen, or on those ``given``.

    ``roundings`` says by component what the bundle has been rounded to.  Components for which
    there is no input are not run.
    """
    with cores_for(model.loaded.module):
        names = {part.loaded.component: look_at(part).names for part in model.parts}
        asked = model.loaded.asked if given is None else given.asked
        eager = eager_parts(model, roundings, names) if asked else None
        live = _fresh(model, seeds) if given is None else _brought(given, eager)
        made = [
            _live(part, live[part.loaded.component], roundings, names)
            for part in model.parts
            if part.loaded.component in live
        ]
        said = () if eager is None else continuations(eager, asked)
    return _together(made, said)


def _live(
    model: MarkedModel,
    cases: Mapping[str, _LiveCase],
    roundings: Mapping[str, Rounding],
    names: Mapping[str, list[str]],
) -> Golden:
    component = model.loaded.component
    prefix = "" if component == MAIN_COMPONENT else f"{component}, "
    golden, _ = record(
        model,
        {prefix + name: case.inputs for name, case in cases.items()},
        names[component],
        roundings[component],
        {prefix + name: case.modality for name, case in cases.items() if case.modality is not None},
    )
    return golden


def _fresh(model: MarkedModel, seeds: tuple[int, ...]) -> dict[str, dict[str, _LiveCase]]:
    """Inputs as the example's for each part: its tokens are of what those of the example are."""
    return {
        part.loaded.component: {
            f"fresh {seed}": _LiveCase(
                fresh_inputs(part, seed), part.loaded.modality.get(EXAMPLE_CASE)
            )
            for seed in seeds
        }
        for part in model.parts
    }


def _brought(given: Given, eager: EagerParts | None) -> dict[str, dict[str, _LiveCase]]:
    """What a user brought, by component and case; what each part gives to the next is eager's."""
    made: dict[str, dict[str, _LiveCase]] = defaultdict(dict)
    for component, cases in given.arrays.items():
        for name, arrays in cases.items():
            inputs = {key: torch.from_numpy(array) for key, array in arrays.items()}
            made[component][name] = _LiveCase(inputs)
    if eager is None:
        return made
    for name, asked in given.asked.items():
        for component, taken in eager.inputs(asked).items():
            modality = asked.modality if component == DECODER else None
            made[component][name] = _LiveCase(taken, modality)
    return made
