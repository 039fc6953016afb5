"""``moe-export doctor``: what this machine can build and run."""

from __future__ import annotations

import click

from moe_export.cli import options
from moe_export.cli.console import Console

_EPILOG = """\
\b
Examples:
  moe-export doctor
  moe-export doctor --json
"""


@click.command(epilog=_EPILOG, short_help="Tell what this machine can build and run.")
@options.as_json
@options.verbose
@click.pass_obj
def doctor(console: Console, /, *, as_json: bool) -> None:
    """Tell what this machine can build and run, and what mends what is missing.

    Nothing is installed or changed, and no engine is built.
    """
    from moe_export.doctor import abilities, examine
    from moe_export.strict_json import encode

    findings = examine()
    can = abilities(findings)
    if as_json:
        console.json({"findings": encode(findings), "abilities": encode(can)})
        return
    console.table(
        [(f.name, f.found if f.found is not None else f"missing: {f.missing}") for f in findings]
    )
    console.out("")
    console.table(
        [(a.name, "yes" if not a.lacks else f"no, it lacks {', '.join(a.lacks)}") for a in can]
    )
    mends = [(f"for {f.name}", f.mend) for f in findings if f.found is None and f.mend is not None]
    if mends:
        console.out("")
        console.table(mends)
