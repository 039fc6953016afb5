"""``moe-export export``: a model in, a validated bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_export.cli import options
from moe_export.cli.console import Console

if TYPE_CHECKING:
    from moe_export.card import BundleFacts
    from moe_export.forms import BlockRecord
    from moe_export.pipeline import Exported
    from moe_export.runtime.bundle import Bundle

_EPILOG = """\
\b
Examples:
  moe-export model.pt
  moe-export model.pt -o build/model.moe --force
  moe-export model.pt --precision int8
  moe-export my_package.models:tiny --python-path src --json
"""


@click.command(epilog=_EPILOG, short_help="Export a model into a validated bundle.")
@click.argument("model")
@click.option(
    "--target",
    default="ort",
    show_default=True,
    metavar="TARGET",
    help="Where the bundle runs: ort, ONNX Runtime with this project's kernels, or standard, any "
    "ONNX runtime; trt and trt-rtx, TensorRT's engines with this project's plugins.",
)
@options.device
@options.precision
@options.dense_precision
@options.output
@options.python_path
@options.trust_pickle
@options.example_inputs
@options.all_logits
@options.max_memory
@options.engine
@click.option("--force", is_flag=True, help="Replace a bundle that lies at the output.")
@options.as_json
@options.verbose
@click.pass_obj
def export(
    console: Console,
    /,
    *,
    model: str,
    target: str,
    precision: str,
    dense_precision: str,
    output: str | None,
    as_json: bool,
    **words: Any,
) -> None:
    """Export MODEL into a bundle and validate it against the eager model.

    MODEL is a checkpoint that moe_export.save_checkpoint wrote, the folder of a Transformers model,
    or PACKAGE.MODULE:FACTORY. The bundle appears whole and validated, or not at all.
    """
    from moe_export.spec import export_spec

    spec = export_spec(
        model,
        target=target,
        precision=precision,
        dense_precision=dense_precision,
        output=output or options.default_output(model),
        **words,
    )
    from moe_export import pipeline

    names = pipeline.STAGES if spec.engines is None else pipeline.ENGINE_STAGES
    with console.stages(names) as stages:
        exported = pipeline.run(spec, stages)
    _warn(console, exported)
    if as_json:
        console.json(_facts(exported, spec.output))
    else:
        _tell(console, exported, spec.output)


def _warn(console: Console, exported: Exported) -> None:
    for block in exported.bundle.manifest.blocks:
        if block.status != "proven":
            console.warn(
                f"{block.path or 'the model'} ({block.kind}) was exported as it is written, "
                f"not as an MoE layer: {block.reason}"
            )


def _tell(console: Console, exported: Exported, output: Path) -> None:
    from moe_export.card import bundle_facts
    from moe_export.report import text
    from moe_export.report.figures import plural, size

    report, bundle = exported.report, bundle_facts(exported.bundle)
    blocks = exported.bundle.manifest.blocks
    proven = sum(block.status == "proven" for block in blocks)
    console.verdict(passed=report.passed, text=text.verdict(report))
    rows = [
        ("bundle", f"{output}, {size(bundle.bytes)}, {_kind(bundle)}"),
        *text.summary(report),
        (
            "blocks",
            f"{proven} of {plural(len(blocks), 'MoE block')} proven and fused{_kept(blocks)}",
        ),
        *(engine_rows(exported.bundle)),
        ("unused", f"{plural(len(bundle.unused), 'tensor')} of the source in no graph"),
        ("reports", ", ".join(_reports(exported, output))),
    ]
    console.table(rows)


def _kept(blocks: tuple[BlockRecord, ...]) -> str:
    """How many of them have a router that no op says."""
    kept = sum(block.layer is not None and bool(block.layer.router.kept) for block in blocks)
    return f", {kept} with the model's own router, which no op says" if kept else ""


def engine_rows(bundle: Bundle) -> list[tuple[str, str]]:
    """A line for the engines of each SM."""
    from moe_export.report.figures import plural, size

    manifest = bundle.manifest
    rows = []
    for sm in dict.fromkeys(engine.sm for engine in manifest.engines):
        here = [engine for engine in manifest.engines if engine.sm == sm]
        weight = size(sum(manifest.files[engine.plan].bytes for engine in here))
        count = plural(len(here), "engine")
        rows.append((f"sm {sm}", f"{count}, {weight}, TensorRT {here[0].tensorrt}"))
    return rows


def _kind(bundle: BundleFacts) -> str:
    experts = f", experts in {bundle.precision}" if bundle.precision != "f32" else ""
    dense = bundle.dense_precision
    products = f", other products in {dense}" if dense != "f32" else ""
    on = f" on {bundle.device}" if bundle.device != "cpu" else ""
    return f"target {bundle.target}{on}{experts}{products}"


def _facts(exported: Exported, output: Path) -> dict[str, Any]:
    from moe_export.card import bundle_facts
    from moe_export.report import text

    report, bundle = exported.report, bundle_facts(exported.bundle)
    return {
        "bundle": str(output),
        "target": bundle.target,
        "precision": bundle.precision,
        "dense_precision": bundle.dense_precision,
        "rounding": bundle.rounding,
        "verdict": bundle.verdict,
        "bytes": bundle.bytes,
        "routing_agreement": text.agreement(report),
        "largest_relative_error": max(t.relative_error for t in report.tensors),
        "tensors": len(report.tensors),
        "engines": [
            {"component": e.component, "sm": e.sm, "plan": e.plan, "tensorrt": e.tensorrt}
            for e in exported.bundle.manifest.engines
        ],
        "not_run": report.not_run,
        "blocks": [
            {"path": block.path, "kind": block.kind, "status": block.status, "reason": block.reason}
            for block in exported.bundle.manifest.blocks
        ],
        "unused": bundle.unused,
        "reports": _reports(exported, output),
    }


def _reports(exported: Exported, output: Path) -> list[str]:
    files = sorted(exported.bundle.manifest.files)
    return [str(output / path) for path in files if path.startswith("reports/")]
