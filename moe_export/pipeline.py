"""The line: six calls from the user's words to a validated bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moe_export.bundle import bundle
from moe_export.bundle.staging import check_replaceable, publish, seal, staging
from moe_export.capture import capture
from moe_export.errors import ParityError
from moe_export.forms import ExportSpec, Report
from moe_export.load import load
from moe_export.lower import lower
from moe_export.report import files
from moe_export.rewrite import rewrite
from moe_export.runtime.bundle import Bundle
from moe_export.validate import validate

STAGES = ("load", "rewrite", "capture", "lower", "bundle", "validate")


@dataclass(frozen=True)
class Exported:
    """A bundle that lies at its output path, and the report that let it get there."""

    bundle: Bundle
    report: Report


def run(spec: ExportSpec, announce: Callable[[str], None] = lambda stage: None) -> Exported:
    """Export as ``spec`` says; ``announce`` hears each stage's name as it begins.

    The bundle appears at ``spec.output`` whole and validated, or not at all.  Where validation
    fails it is left beside it as ``<output>.rejected``, report inside, and ``ParityError`` says so.
    """
    check_replaceable(spec.output, force=spec.force)
    announce("load")
    loaded = load(spec)
    announce("rewrite")
    marked = rewrite(loaded)
    announce("capture")
    portable = capture(marked)
    announce("lower")
    lowered = lower(portable, spec.target)
    with staging(spec.output, force=spec.force) as place:
        announce("bundle")
        written = bundle(lowered, place)
        announce("validate")
        report = validate(written)
        seal(place, reports=files(report), verdict="passed" if report.passed else "failed")
        if not report.passed:
            _reject(place, spec.output, report)
        publish(place, spec.output, force=spec.force)
    return Exported(Bundle.open(spec.output), report)


def _reject(place: Path, output: Path, report: Report) -> None:
    rejected = output.with_name(f"{output.name}.rejected")
    publish(place, rejected, force=True)
    failed = [t for t in report.tensors if not t.passed]
    routed = [r for r in report.routing if not r.passed]
    raise ParityError(
        "the bundle does not reproduce the eager model: "
        f"{len(failed)} of {len(report.tensors)} tensors and "
        f"{len(routed)} of {len(report.routing)} routings differ",
        where=f"{rejected}/reports/parity.json",
        hint=f"moe-export validate {rejected} shows where; nothing was written to {output}",
    )
