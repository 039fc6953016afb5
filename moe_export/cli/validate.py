"""``moe-export validate``: the bundle beside the eager model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from moe_export.cli import options
from moe_export.cli.console import Console
from moe_export.cli.files import files_in, read_cases, write_file

if TYPE_CHECKING:
    from moe_export.forms import Given, Report
    from moe_export.runtime.bundle import Bundle

_EPILOG = """\
\b
Examples:
  moe-export validate model.moe
  moe-export validate model.moe --junit parity.xml
  moe-export validate model.moe --replay
  moe-export validate model.moe --source model.pt --json
  moe-export validate qwen.moe --source my-qwen3-vl --images photos
"""


@click.command(epilog=_EPILOG, short_help="Compare a bundle with the eager model.")
@click.argument("bundle")
@click.option("--source", metavar="MODEL", help="Compare with this model, live, on fresh inputs.")
@click.option(
    "--inputs",
    metavar="FILE|FOLDER",
    help="With --source: on the arrays of an .npz file, or of each in a folder.",
)
@click.option(
    "--images",
    metavar="FOLDER",
    help="With --source: on questions about each image of a folder, for a Transformers model.",
)
@options.python_path
@options.trust_pickle
@click.option("--replay", is_flag=True, help="Run with the eager model's routing too.")
@click.option("--junit", metavar="FILE", help="Write the comparisons as JUnit XML too.")
@options.max_memory
@options.as_json
@options.verbose
@click.pass_obj
def validate(
    console: Console,
    /,
    *,
    bundle: str,
    source: str | None,
    inputs: str | None,
    images: str | None,
    junit: str | None,
    max_memory: str | None,
    python_path: tuple[str, ...],
    trust_pickle: bool,
    replay: bool,
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
    if source is None and (inputs is not None or images is not None):
        raise click.UsageError("--inputs and --images need --source")
    if inputs is not None and images is not None:
        raise click.UsageError("one of --inputs and --images will do")
    opened = Bundle.open(bundle)
    if source is None:
        report = _against_golden(console, opened, max_memory, replay=replay)
    else:
        words = {"python_path": python_path, "trust_pickle": trust_pickle, "max_memory": max_memory}
        given = _given(opened, inputs, images)
        report = _against_live(console, opened, source, given, words, replay=replay)
    if junit is not None:
        write_file(junit, to_junit(report))
    _tell(console, report, as_json=as_json)
    if not report.passed:
        raise ParityError(
            f"the bundle does not reproduce the eager model: {failure(report)}", where=bundle
        )


def _against_golden(
    console: Console, bundle: Bundle, max_memory: str | None, *, replay: bool
) -> Report:
    from moe_export.budget import Stages, memory_in_use
    from moe_export.needs import require_memory_to_validate
    from moe_export.runtime.resident import limit_within, trimmed
    from moe_export.spec import memory_size
    from moe_export.validate import validate

    allowed = None if max_memory is None else memory_size(max_memory)
    golden = bundle.golden()
    require_memory_to_validate(golden, memory_in_use(), allowed)
    check = partial(validate, bundle, golden, replay=replay)
    with console.stages(["validate"]) as stages, trimmed(bundle.path, limit_within(allowed)):
        return Stages(allowed, stages)("validate", check)


def _given(bundle: Bundle, inputs: str | None, images: str | None) -> Given | None:
    from moe_export.runtime.given import given_arrays, given_images

    if inputs is not None:
        return given_arrays(bundle, read_cases(inputs))
    return None if images is None else given_images(bundle, files_in(images))


def _against_live(
    console: Console,
    bundle: Bundle,
    source: str,
    given: Given | None,
    words: Mapping[str, Any],
    *,
    replay: bool,
) -> Report:
    from moe_export.spec import export_spec

    spec = export_spec(source, **words)
    from moe_export import pipeline

    with console.stages(pipeline.LIVE_STAGES) as stages:
        live = pipeline.run_live(bundle, spec, stages, given, replay=replay)
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
