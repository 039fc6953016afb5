"""``moe-export diff``: two bundles side by side."""

from __future__ import annotations

import click

from moe_export.cli import options
from moe_export.cli.console import Console
from moe_export.cli.reports import read_report

_EPILOG = """\
\b
Examples:
  moe-export diff model.bf16.moe model.int4.moe
  moe-export diff monday.json tuesday.json --json
"""


@click.command(epilog=_EPILOG, short_help="Compare two bundles by their reports.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@options.as_json
@options.verbose
@click.pass_obj
def diff(console: Console, /, *, a: str, b: str, as_json: bool) -> None:
    """Compare two bundles, or two reports as JSON: routing, numbers, sizes, times.

    Each is a bundle, or a file that validate --json wrote. Nothing is run. Exits with 0 whenever
    the two can be compared, also where one of them failed its validation.
    """
    from moe_export.report import diff as comparing
    from moe_export.report.diff_text import tables

    first, second = read_report(a), read_report(b)
    made = comparing.diff(first, second, names=(a, b))
    if first.source != second.source:
        console.warn(f"one is of {first.source}, the other of {second.source}")
    if as_json:
        console.json(made)
    else:
        console.out(tables(made))
