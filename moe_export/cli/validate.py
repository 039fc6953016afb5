"""``moe-export validate``: the bundle beside the eager model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moe_export.cli import options
from moe_export.cli.console import Console
from moe_export.cli.files import write_file

if TYPE_CHECKING:
    from moe_export.forms import ExportSpec, Report
    from moe_export.runtime.bundle import Bundle

_EPILOG = """\
\b
Examples:
  moe-export validate model.moe
  moe-export validate model.moe --junit parity.xml
  moe-export validate model.moe --replay
  moe-export validate model.moe --source model.pt --json
"""


@click.command(epilog=_EPILOG, short_help="Compare a bundle with the eager model.")
@click.argument("bundle")
@click.option("--source", metavar="MODEL", help="Compare with this model, live, on fresh inputs.")
@options.python_path
@options.trust_pickle
@click.option("--replay", is_flag=True, help="Run with the eager model's routing too.")
@click.option("--junit", metavar="FILE", help="Write the comparisons as JUnit XML too.")
@options.as_json
@options.verbose
@click.pass_obj
def validate(
    console: Console,
    /,
    *,
    bundle: str,
    source: str | None,
    python_path: tuple[str, ...],
    trust_pickle: bool,
    replay: bool,
    junit: str | None,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the eager model: outputs, MoE layers, routing, every expert.

    By default with the golden tensors that BUNDLE carries, which needs NumPy and ONNX Runtime
    only; with --source against the model itself. With --replay every case also runs with the
    eager model's routing forced in, so that what the experts are off by and what the routers are
    is seen apart; a case whose routing differs is always run so. Exits with 4 where they differ.
    """
    from moe_export.errors import ParityError
    from moe_export.report.junit import to_junit
    from moe_export.report.text import failure
    from moe_export.runtime.bundle import Bundle

    if source is None and (python_path or trust_pickle):
        raise click.UsageError("--python-path and --trust-pickle need --source")
    opened = Bundle.open(bundle)
    if source is None:
        report = _against_golden(console, opened, replay=replay)
    else:
        spec = _spec(source, python_path, trust_pickle=trust_pickle)
        report = _against_live(console, opened, spec, replay=replay)
    if junit is not None:
        write_file(junit, to_junit(report))
    _tell(console, report, as_json=as_json)
    if not report.passed:
        raise ParityError(
            f"the bundle does not reproduce the eager model: {failure(report)}", where=bundle
        )


def _against_golden(console: Console, bundle: Bundle, *, replay: bool) -> Report:
    from moe_export.validate import validate

    with console.stages(["validate"]) as stages:
        stages("validate")
        return validate(bundle, replay=replay)


def _spec(source: str, python_path: tuple[str, ...], *, trust_pickle: bool) -> ExportSpec:
    from moe_export.spec import export_spec

    return export_spec(source, python_path=python_path, trust_pickle=trust_pickle)


def _against_live(console: Console, bundle: Bundle, spec: ExportSpec, *, replay: bool) -> Report:
    from moe_export import pipeline

    with console.stages(pipeline.LIVE_STAGES) as stages:
        live = pipeline.run_live(bundle, spec, stages, replay=replay)
    if not live.same_weights:
        console.warn(f"the weights of {spec.source} are not those the bundle was made of")
    return live.report


def _tell(console: Console, report: Report, *, as_json: bool) -> None:
    from moe_export.report import parity, text

    if as_json:
        console.raw(parity.to_json(report))
        return
    console.verdict(passed=report.passed, text=text.verdict(report))
    console.table(text.summary(report))
    console.out()
    console.out(text.tables(report))
