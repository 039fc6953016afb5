"""The line: six calls from the user's words to a validated bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from moe_export import engines
from moe_export import plan as planning
from moe_export.budget import Stages
from moe_export.bundle import bundle
from moe_export.bundle.staging import (
    add_engines,
    check_replaceable,
    copy_to_build,
    publish,
    seal,
    staging,
)
from moe_export.capture import Rounding, capture, capture_live
from moe_export.errors import MissingEnvironmentError, ParityError, UsageError
from moe_export.forms import EngineSpec, ExportSpec, Given, LoadedModel, MarkedModel, Report
from moe_export.load import load
from moe_export.lower import kernels_of, lower
from moe_export.manifest import TensorInfo, Verdict
from moe_export.needs import foreseen, require_disk, require_memory
from moe_export.report import files
from moe_export.report.text import failure
from moe_export.rewrite import rewrite
from moe_export.runtime import kernels
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.resident import limit_within, trimmed
from moe_export.validate import validate

STAGES = ("load", "rewrite", "capture", "lower", "bundle", "validate")
ENGINE_STAGES = (*STAGES[:-1], "engines", STAGES[-1])
LIVE_STAGES = ("load", "rewrite", "capture", "validate")


@dataclass(frozen=True)
class Exported:
    """A bundle that lies at its output path, and the report that let it get there."""

    bundle: Bundle
    report: Report


@dataclass(frozen=True)
class Compared:
    """A bundle beside a live model; ``same_weights`` says whether it was made of these."""

    report: Report
    same_weights: bool


def run(spec: ExportSpec, announce: Callable[[str], None] = lambda stage: None) -> Exported:
    """Export as ``spec`` says; ``announce`` hears each stage's name as it begins.

    The bundle appears at ``spec.output`` whole and validated, or not at all.  Where validation
    fails it is left beside it as ``<output>.rejected``, report inside, and ``ParityError`` says so.
    A target whose kernels are not here is refused at once with ``MissingEnvironmentError``, and a
    model for which memory or disk cannot be enough with ``MemoryBudgetError`` once it is loaded.
    Where engines cannot be built here the bundle is written without them, and then
    ``MissingEnvironmentError`` says what to run on the device.
    """
    if kernels_of(spec.target, spec.device) is not None:
        kernels.library_path()  # or the bundle could not be validated
    check_replaceable(spec.output, force=spec.force)
    lacking = _lacking(spec)
    stage = Stages(spec.max_memory, announce)
    loaded = stage("load", load, spec)
    with foreseen(_affordable(spec, loaded)):
        marked = stage("rewrite", rewrite, loaded)
        portable = stage("capture", capture, marked, spec.precision, spec.dense_precision)
        lowered = stage("lower", lower, portable, spec.target, spec.device)
        with staging(spec.output, force=spec.force) as place:
            written = stage("bundle", bundle, lowered, place)
            if spec.engines is not None and lacking is None:
                written = stage("engines", _with_engines, written, spec.engines)
            with trimmed(place, limit_within(spec.max_memory)):
                report = stage("validate", validate, written)
            verdict: Verdict = "passed" if report.passed else "failed"
            seal(place, reports=files(_without_times(report)), verdict=verdict)
            if not report.passed:
                _reject(place, spec.output, report)
            publish(place, spec.output, force=spec.force)
    if lacking is not None:
        raise _without_engines(spec, lacking)
    # Digests were compared when it was staged; engines and reports came later, digested as written.
    return Exported(Bundle.open(spec.output, verify=False), report)


def build(bundle: Bundle, wish: EngineSpec) -> Bundle:
    """Build the engines of a bundle anew, validate it, and return it with them.

    The bundle is replaced by one with engines in one step.  Raises ``MissingEnvironmentError``
    where TensorRT, the plugins or the GPU are not here, ``UnsupportedError`` for what TensorRT
    refuses, and ``ParityError`` where the bundle with its engines differs from the eager model;
    then the bundle is as it was.
    """
    engines.can_build(bundle.manifest.target, wish)
    with staging(bundle.path, force=True) as place:
        copy_to_build(bundle.path, place)
        built = _with_engines(Bundle.open(place, verify=False), wish)
        report = validate(built)
        if not report.passed:
            raise ParityError(
                f"the bundle does not reproduce the eager model: {failure(report)}",
                where=str(bundle.path),
                hint="the bundle is as it was before",
            )
        seal(place, reports=files(_without_times(report)), verdict="passed")
        publish(place, bundle.path, force=True)
    return Bundle.open(bundle.path)


def _without_times(report: Report) -> Report:
    """As it goes into a bundle: equal models give equal bundles."""
    return replace(report, seconds={})


def _with_engines(written: Bundle, wish: EngineSpec) -> Bundle:
    made = engines.build(written.path, written.manifest, written.golden(), wish)
    add_engines(written.path, made)
    return Bundle.open(written.path, verify=False)


def _lacking(spec: ExportSpec) -> MissingEnvironmentError | None:
    """Why the engines cannot be built on this machine, if they are wanted and cannot."""
    if spec.engines is None:
        return None
    try:
        engines.can_build(spec.target, spec.engines)
    except MissingEnvironmentError as error:
        return error
    return None


def _without_engines(spec: ExportSpec, lacking: MissingEnvironmentError) -> MissingEnvironmentError:
    return MissingEnvironmentError(
        f"the bundle is written and validated, its engines are not built: {lacking.message}",
        where=f"{spec.output}" + (f", {lacking.where}" if lacking.where else ""),
        hint=f"{lacking.hint}; then, on the device: moe-export build {spec.output}",
    )


def _affordable(spec: ExportSpec, loaded: LoadedModel) -> planning.Plan:
    made = planning.plan(planning.facts(loaded), spec.precision, spec.dense_precision)
    require_memory(made, spec.max_memory)
    require_disk(made, spec.output, loaded.spool_folder)
    return made


def run_live(
    bundle: Bundle,
    spec: ExportSpec,
    announce: Callable[[str], None] = lambda stage: None,
    given: Given | None = None,
    *,
    replay: bool = False,
) -> Compared:
    """Validate ``bundle`` against the eager model of ``spec``, on inputs that no bundle has seen.

    Those are ``given``, or made of the model's examples; ``replay`` is that of ``validate``.  Each
    stage stays within ``spec.max_memory``, as in an export.  Raises ``UsageError`` for a model
    whose inputs or MoE layers are not those of the bundle.
    """
    stage = Stages(spec.max_memory, announce)
    loaded = stage("load", load, replace(spec, all_logits=bundle.has_all_logits))
    for part in (loaded, *loaded.beside):
        _require_same_inputs(bundle, part)
    marked = stage("rewrite", rewrite, loaded)
    _require_same_layers(bundle, marked)
    golden = stage("capture", capture_live, marked, _roundings(bundle), given)
    source = loaded.source
    run = {case.component for case in golden.cases}
    unseen = dict.fromkeys(bundle.manifest.components.keys() - run, "no inputs were given for it")
    with trimmed(bundle.path, limit_within(spec.max_memory)):
        report = stage(
            "validate",
            validate,
            bundle,
            golden,
            against=f"live {source.description}, {'fresh' if given is None else 'given'} inputs",
            left_out=dict(sorted(unseen.items())),
            replay=replay,
        )
    return Compared(
        report=report,
        same_weights=source.fingerprint == bundle.manifest.source.fingerprint,
    )


def _roundings(bundle: Bundle) -> dict[str, Rounding]:
    manifest = bundle.manifest
    return {
        name: Rounding(
            experts=manifest.precision, dense=manifest.dense_precision, dense_names=component.dense
        )
        for name, component in manifest.components.items()
    }


def _require_same_inputs(bundle: Bundle, loaded: LoadedModel) -> None:
    wanted = {info.name: info for info in bundle.component(loaded.component).inputs}
    given = loaded.example_inputs
    if wanted.keys() != given.keys():
        raise _another_model(
            bundle, loaded, f"it takes {', '.join(given)}, the bundle takes {', '.join(wanted)}"
        )
    for name, tensor in given.items():
        form = TensorInfo(
            name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape)
        )
        if not _fits(form, wanted[name]):
            raise _another_model(bundle, loaded, f"it takes {form}, the bundle {wanted[name]}")


def _fits(given: TensorInfo, wanted: TensorInfo) -> bool:
    return (
        given.dtype == wanted.dtype
        and len(given.shape) == len(wanted.shape)
        and all(
            size == dim
            for size, dim in zip(given.shape, wanted.shape, strict=True)
            if isinstance(dim, int)
        )
    )


def _require_same_layers(bundle: Bundle, marked: MarkedModel) -> None:
    wanted = {b.path: b.layer for b in bundle.manifest.blocks if b.status == "proven"}
    given = {block.path: block.layer for part in marked.parts for block in part.proven}
    for path in dict.fromkeys((*wanted, *given)):
        if wanted.get(path) != given.get(path):
            where = path or "the model"
            raise _another_model(
                bundle,
                marked.loaded,
                f"the MoE layer {where} is only in one of them"
                if path not in wanted or path not in given
                else f"the MoE layer {where} is another one",
            )


def _another_model(bundle: Bundle, loaded: LoadedModel, how: str) -> UsageError:
    return UsageError(
        f"the source is not the model that the bundle was made of: {how}",
        where=f"{loaded.source.description} and {bundle.path.name}",
        hint=f"the bundle was made of {bundle.manifest.source.description}",
    )


def _reject(place: Path, output: Path, report: Report) -> None:
    rejected = output.with_name(f"{output.name}.rejected")
    publish(place, rejected, force=True)
    raise ParityError(
        f"the bundle does not reproduce the eager model: {failure(report)}",
        where=f"{rejected}/reports/parity.json",
        hint=f"moe-export validate {rejected} shows where; nothing was written to {output}",
    )
