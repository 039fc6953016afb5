"""``moe-export build``: the engines of a bundle, on the machine that has what builds them."""

from __future__ import annotations

from typing import Any

import click

from moe_export.cli import options
from moe_export.cli.console import Console

_EPILOG = """\
\b
Examples:
  moe-export build model.moe
  moe-export build model.moe --sm 89 --sm 120
"""


@click.command(epilog=_EPILOG, short_help="Build the engines of a bundle for TensorRT.")
@click.argument("bundle")
@options.engine
@options.as_json
@options.verbose
@click.pass_obj
def build(
    console: Console,
    /,
    *,
    bundle: str,
    sms: tuple[str, ...],
    embed_plugins: bool,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Build the engines of BUNDLE, one for each of its components and each SM.

    A bundle of the target trt is built on the machine that has its GPU, one of trt-rtx anywhere.
    Engines that were there before are replaced.
    """
    from moe_export import pipeline
    from moe_export.cli.export import engine_rows
    from moe_export.errors import UsageError
    from moe_export.runtime.bundle import Bundle
    from moe_export.spec import engine_spec

    opened = Bundle.open(bundle)
    target = opened.manifest.target
    wish = engine_spec(target, sms=sms, sizes=sizes, embed_plugins=embed_plugins)
    if wish is None:
        raise UsageError(
            f"a bundle for {target!r} has no engines",
            where=bundle,
            hint="export it with --target trt-rtx or --target trt",
        )
    built = pipeline.build(opened, wish)
    if as_json:
        console.json([record.plan for record in built.manifest.engines])
    else:
        console.table([("bundle", bundle), *engine_rows(built)])
