"""The help of every command as docs/cli.md shows it.

``python -m cli.help_pages`` in ``tests`` writes it there.
"""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from moe_export.cli import program

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BLOCK = re.compile(r"```console\n\$ (moe-export[^\n]* --help)\n(.*?)```", re.DOTALL)


def help_of(command: str) -> str:
    """What ``command``, ending in ``--help``, prints on a terminal of 80 columns."""
    words = command.split()[1:]
    return CliRunner(env={"COLUMNS": "80"}).invoke(program, words).stdout


def regenerated(page: str) -> str:
    """``page`` with each command's help as it is now."""
    return BLOCK.sub(lambda found: f"```console\n$ {found[1]}\n{help_of(found[1])}```", page)


if __name__ == "__main__":
    PAGE.write_text(regenerated(PAGE.read_text()))
