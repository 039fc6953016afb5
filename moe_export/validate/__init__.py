"""Compare a bundle with the eager model: numbers within earned tolerances, routing, experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moe_export.errors import UnsafeInputError
from moe_export.forms import ExpertCase, Golden, GoldenCase, Report, RoutingParity, TensorParity
from moe_export.runtime import cuda_kernels
from moe_export.runtime.session import Session
from moe_export.validate.behaviour import Behaviour
from moe_export.validate.engines import validate_engines
from moe_export.validate.routing import compare_routing
from moe_export.validate.tensors import compare

if TYPE_CHECKING:
    from moe_export.runtime.bundle import Bundle

Array = npt.NDArray[Any]
Probes = Mapping[str, Mapping[str, str]]


def validate(
    bundle: Bundle,
    golden: Golden | None = None,
    *,
    against: str = "golden",
    left_out: Mapping[str, str] | None = None,
) -> Report:
    """Run the bundle on golden inputs and compare all that was recorded.

    ``golden`` defaults to what the bundle carries, and then nothing but NumPy and the bundle's
    runtime is needed.  Compared are, for each case, every output, each MoE layer's experts input
    and block output, and its routing token by token; and for each layer every expert on synthetic
    tokens, so that an expert no golden token chose is seen too.

    Engines run on the GPU that they were built for, GPU kernels on any; where that is not here they
    are not run, and the graph is, through the standard operators that it carries.

    A case with an explained routing flip has other numbers behind the flip, so its tensors are
    listed as not run, and its routing still counts.

    One layer of one case is read at a time.  ``left_out`` are components that ``golden`` does not
    run, each with the reason.
    """
    golden = bundle.golden() if golden is None else golden
    left_out = left_out or {}
    _require_all_run(bundle, golden, left_out)
    behaviour = Behaviour(bundle)
    tensors: list[TensorParity] = []
    routing: list[RoutingParity] = []
    not_run = {f"component {name}": reason for name, reason in left_out.items()}
    for component, record in bundle.manifest.components.items():
        if component in left_out:
            continue
        probes = record.probes
        cases = [case for case in golden.cases if case.component == component]
        with Session(bundle, component=component, graph="probe") as session:
            for case in cases:
                made = session.run(case.inputs, outputs=_outputs(case, probes))
                routed = list(_routing(case, made, probes))
                routing += routed
                behaviour.add(case, made)
                flips = [f"{each.layer}, token {f.token}" for each in routed for f in each.flips]
                if flips and all(parity.passed for parity in routed):
                    not_run[f"tensors of case {case.name!r}"] = (
                        f"explained flips: {'; '.join(flips)}"
                    )
                    continue
                tensors += _tensors(case, made, probes)
        behaviour.lap("cases")
        experts = {layer: case for layer, case in golden.experts.items() if layer in probes}
        if experts:
            with Session(bundle, component=component, graph="experts") as session:
                tensors += _experts(experts, session)
        behaviour.lap("experts")
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
    )
    return behaviour.told(report, golden)


def _require_all_run(bundle: Bundle, golden: Golden, left_out: Mapping[str, str]) -> None:
    """Golden tensors that no graph runs would pass unseen, and so would a graph beside others."""
    components = bundle.manifest.components
    layers = {layer for record in components.values() for layer in record.probes}
    run = {case.component for case in golden.cases}
    odd = [component for component in run if component not in components]
    odd += [layer for layer in golden.experts if layer not in layers]
    if odd:
        raise UnsafeInputError(
            f"the golden tensors know {odd[0]!r}, the bundle does not", where=str(bundle.path)
        )
    unseen = sorted(components.keys() - run - left_out.keys()) if run else []
    if unseen:
        raise UnsafeInputError(
            f"the golden tensors run {', '.join(sorted(run))} and not {unseen[0]!r}",
            where=str(bundle.path),
        )


def _outputs(case: GoldenCase, probes: Probes) -> list[str]:
    watched = [name for roles in probes.values() for name in roles.values()]
    return list(dict.fromkeys([*case.outputs, *watched]))


def _routing(
    case: GoldenCase, made: Mapping[str, Array], probes: Probes
) -> Iterator[RoutingParity]:
    for layer, recorded in case.layers.items():
        yield compare_routing(case.name, layer, recorded, made[probes[layer]["topk_ids"]])


def _tensors(case: GoldenCase, made: Mapping[str, Array], probes: Probes) -> Iterator[TensorParity]:
    for layer, recorded in case.layers.items():
        for role in ("x", "y"):
            yield compare(
                case.name,
                f"{layer}/{role}",
                "layer",
                bundle=_rows(made[probes[layer][role]]),
                eager=_rows(getattr(recorded, role)),
                reference=_rows(getattr(recorded, f"{role}_reference")),
                edge_error=float(getattr(recorded, f"{role}_edge_error")),
            )
    for name, eager in case.outputs.items():
        reference = case.outputs_reference[name]
        yield compare(
            case.name,
            name,
            "output",
            bundle=made[name],
            eager=eager,
            reference=reference,
            edge_error=float(case.outputs_edge_error[name]),
        )


def _experts(cases: Mapping[str, ExpertCase], session: Session) -> Iterator[TensorParity]:
    inputs = {
        f"{layer}/{role}": getattr(case, role)
        for layer, case in cases.items()
        for role in ("x", "topk_ids", "topk_weights")
    }
    made = session.run(inputs)
    for layer, case in cases.items():
        yield compare(
            "every expert",
            f"{layer}/experts",
            "expert",
            bundle=made[f"{layer}/experts_y"],
            eager=case.y,
            reference=case.y_reference,
            edge_error=float(case.y_edge_error),
        )


def _rows(array: Array) -> Array:
    return np.reshape(array, (-1, array.shape[-1]))
