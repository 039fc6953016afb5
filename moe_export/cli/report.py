"""``moe-export report``: the parity report as a page for people."""

from __future__ import annotations

import click

from moe_export.cli import options
from moe_export.cli.console import Console
from moe_export.cli.files import write_file
from moe_export.cli.reports import read_report

_EPILOG = """\
\b
Examples:
  moe-export report model.moe
  moe-export report model.moe -o parity.html
  moe-export validate model.moe --source model.pt --json > live.json
  moe-export report live.json -o live.html
"""


@click.command(epilog=_EPILOG, short_help="Write a parity report as an HTML page.")
@click.argument("report", metavar="BUNDLE|JSON")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="report.html",
    show_default=True,
    help="The page; a file that lies there is replaced.",
)
@options.as_json
@options.verbose
@click.pass_obj
def report(console: Console, /, *, report: str, output: str, as_json: bool) -> None:
    """Write the parity report of a bundle as one HTML file that needs nothing else.

    Of a bundle it is the report that was written when it was made or its engines were built; of a
    JSON file it is what validate --json wrote. Nothing is run. A report that failed is a page
    too, and the exit code says whether the page was written.
    """
    from moe_export.report.html import to_html
    from moe_export.report.text import verdict

    read = read_report(report)
    write_file(output, to_html(read).encode())
    if as_json:
        console.json({"output": output, "passed": read.passed, "source": read.source})
        return
    console.verdict(verdict(read), passed=read.passed)
    console.table([("page", output)])
