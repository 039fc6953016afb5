"""Compare a bundle with the eager model: numbers within earned tolerances, routing, experts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moe_export.errors import UnsafeInputError
from moe_export.forms import (
    Attribution,
    Golden,
    Report,
    RoutingParity,
    TensorParity,
    block_name,
)
from moe_export.runtime import cuda_kernels
from moe_export.runtime.session import Session
from moe_export.validate.attribute import Evidence, Places, attribute
from moe_export.validate.behaviour import Behaviour
from moe_export.validate.departures import Departures, departures
from moe_export.validate.engines import validate_engines
from moe_export.validate.experts import ExpertsRun, run_experts, with_labels
from moe_export.validate.routing import compare_routing
from moe_export.validate.runs import Cases, Run
from moe_export.validate.tensors import compare

if TYPE_CHECKING:
    from moe_export.runtime.bundle import Bundle

Array = npt.NDArray[Any]


def validate(
    bundle: Bundle,
    golden: Golden | None = None,
    *,
    against: str = "golden",
    replay: bool = False,
    left_out: Mapping[str, str] | None = None,
) -> Report:
    """Run the bundle on golden inputs and compare all that was recorded.

    ``golden`` defaults to what the bundle carries, and then nothing but NumPy and the bundle's
    runtime is needed.  Compared are, for each case, every output, each MoE layer's experts input
    and block output, and its routing token by token; and for each layer every expert on synthetic
    tokens, so that an expert no golden token chose is seen too.  For each case that fails the
    report says where it first leaves its envelope, and what did it.  A block that runs several
    times is an MoE layer in each pass over it.

    Engines run on the GPU that they were built for, GPU kernels on any; where that is not here they
    are not run, and the graph is, through the standard operators that it carries.

    Behind a routing flip, or weights that are off, a case has other numbers.  It is run again with
    the eager model's routing in the place of the bundle's; its tensors are those of that run, and
    so is the routing of the layers behind the first that differs.  With ``replay`` all cases are
    run so too, and every tensor has to be within its tolerance either way.

    One case is run at a time.  ``left_out`` are components that ``golden`` does not run, each with
    the reason.
    """
    golden = bundle.golden() if golden is None else golden
    left_out = left_out or {}
    _require_all_run(bundle, golden, left_out)
    behaviour = Behaviour(bundle)
    tensors: list[TensorParity] = []
    routing: list[RoutingParity] = []
    attribution: list[Attribution] = []
    not_run = {f"component {name}": reason for name, reason in left_out.items()}
    for component, record in bundle.manifest.components.items():
        if component in left_out:
            continue
        cases = [case for case in golden.cases if case.component == component]
        failing: list[Evidence] = []
        with Cases(bundle, component) as runs:
            for case in cases:
                run = runs.run(case)
                behaviour.add(case, run.made)
                evidence = _compared(runs, run, record.layers, replay=replay)
                tensors += [*evidence.layers.values(), *evidence.outputs.values()]
                routing += evidence.routing.values()
                failing += [] if evidence.passed else [evidence]
            labels = runs.labels
        behaviour.lap("cases")
        experts = {
            layer: with_labels(golden.experts[block], labels.get(layer))
            for layer in record.layers
            if (block := block_name(layer, golden.experts)) in golden.experts
        }
        alone: list[ExpertsRun] = []
        if experts:
            with Session(bundle, component=component, graph="experts") as session:
                alone += run_experts(experts, _num_experts(bundle, experts), session)
        tensors += [run.parity for run in alone]
        behaviour.lap("experts")
        attribution += attribute(failing, alone, Places(bundle, component))
        behaviour.lap("attribution")
    not_run |= _no_oracle(bundle)
    if bundle.manifest.device == "cuda" and (reason := cuda_kernels.why_not()) is not None:
        not_run["CUDA kernels"] = reason
    of_engines, without_gpu = validate_engines(bundle, golden)
    tensors += of_engines
    not_run |= without_gpu
    behaviour.lap("engines")
    report = Report(
        source=bundle.manifest.source.description,
        target=bundle.manifest.target,
        against=against,
        tensors=tuple(tensors),
        routing=tuple(routing),
        not_run=not_run,
        precision=str(bundle.manifest.precision),
        rounding=bundle.manifest.rounding,
        attribution=tuple(attribution),
    )
    return behaviour.told(report, golden)


def _no_oracle(bundle: Bundle) -> dict[str, str]:
    """What cannot be said of routers that are kept."""
    blocks = bundle.manifest.blocks
    kept = [b.name for b in blocks if b.layer is not None and b.layer.router.kept]
    if not kept:
        return {}
    more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
    return {
        "routers by the oracle": f"no op says what that of {kept[0]}{more} does, which was kept; "
        "choice and weights were compared with the eager model's alone, and a margin is the least "
        "move of one logit that was found to change the choice: the true one may be less"
    }


def _require_all_run(bundle: Bundle, golden: Golden, left_out: Mapping[str, str]) -> None:
    """Golden tensors that no graph runs would pass unseen, and so would a graph beside others.

    Each case has the MoE layers of its graph: as many passes over each block.
    """
    components = bundle.manifest.components
    layers = {layer for record in components.values() for layer in record.probes}
    run = {case.component for case in golden.cases}
    odd = [component for component in run if component not in components]
    odd += [layer for layer in golden.experts if layer not in layers]
    odd += [layer for case in golden.cases for layer in case.layers if layer not in layers]
    if odd:
        raise UnsafeInputError(
            f"the golden tensors know {odd[0]!r}, the bundle does not", where=str(bundle.path)
        )
    for case in golden.cases:
        absent = [x for x in components[case.component].layers if x not in case.layers]
        if absent:
            raise UnsafeInputError(
                f"the golden tensors of case {case.name!r} do not know {absent[0]!r}",
                where=str(bundle.path),
            )
    unseen = sorted(components.keys() - run - left_out.keys()) if run else []
    if unseen:
        raise UnsafeInputError(
            f"the golden tensors run {', '.join(sorted(run))} and not {unseen[0]!r}",
            where=str(bundle.path),
        )


def _compared(runs: Cases, run: Run, layers: Sequence[str], *, replay: bool) -> Evidence:
    """A golden case as the bundle routes it; where that differs or is asked for, as eager did."""
    case = run.case
    left = departures(case, layers)
    routing = {layer: _routing(run, layer) for layer in layers}
    odd = [layer for layer, parity in routing.items() if parity.flips or not parity.passed]
    fits = all(run.chosen(x)[0].shape == case.layers[x].topk_ids.shape for x in routing)
    if not fits or not routing or not (odd or replay):
        return Evidence(run, _layers(run, None, left), _outputs(run, None, left), routing)
    replayed = runs.replay(run)
    judged = replayed if odd else run
    behind = list(routing)[list(routing).index(odd[0]) + 1 :] if odd else []
    routing |= {layer: _routing(replayed, layer) for layer in behind}
    return Evidence(
        run=judged,
        layers=_layers(judged, replayed, left),
        outputs=_outputs(judged, replayed, left),
        routing=routing,
        routed_by={layer: run for layer in routing if layer not in behind},
    )


def _routing(run: Run, layer: str) -> RoutingParity:
    return compare_routing(run.case.name, layer, run.case.layers[layer], *run.chosen(layer))


def _layers(run: Run, replayed: Run | None, left: Departures) -> dict[str, TensorParity]:
    """What enters each layer's experts and what leaves the layer, by ``<layer>/x`` and ``/y``."""
    return {
        f"{layer}/{role}": compare(
            run.case.name,
            f"{layer}/{role}",
            "layer",
            bundle=run.rows(layer, role),
            eager=_rows(getattr(recorded, role)),
            reference=_rows(getattr(recorded, f"{role}_reference")),
            edge_error=float(getattr(recorded, f"{role}_edge_error")),
            rewritten_error=float(getattr(recorded, f"{role}_rewritten_error")),
            replayed=None if replayed is None else replayed.rows(layer, role),
            has_left=f"{layer}/{role}" in left.layers,
        )
        for layer, recorded in run.case.layers.items()
        for role in ("x", "y")
    }


def _outputs(run: Run, replayed: Run | None, left: Departures) -> dict[str, TensorParity]:
    case = run.case
    return {
        name: compare(
            case.name,
            name,
            "output",
            bundle=run.made[name],
            eager=eager,
            reference=case.outputs_reference[name],
            edge_error=float(case.outputs_edge_error[name]),
            rewritten_error=float(case.outputs_rewritten_error.get(name, np.nan)),
            replayed=None if replayed is None else replayed.made[name],
            has_left=left.outputs,
        )
        for name, eager in case.outputs.items()
    }


def _num_experts(bundle: Bundle, layers: Iterable[str]) -> dict[str, int]:
    """By MoE layer, E."""
    blocks = bundle.manifest.blocks
    known = {b.name: b.layer.experts.num_experts for b in blocks if b.layer is not None}
    return {layer: known[block_name(layer, known)] for layer in layers}


def _rows(array: Array) -> Array:
    return np.reshape(array, (-1, array.shape[-1]))
