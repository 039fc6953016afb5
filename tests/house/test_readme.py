"""The tables of the README say what the program says."""

from __future__ import annotations

import re

from moe_export import errors
from moe_export.cli import program
from moe_export.spec import TARGETS
from tests.house.pages import ROOT

README = (ROOT / "README.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under ``heading``, its header left out."""
    _, found, rest = README.partition(f"\n## {heading}\n")
    assert found, heading
    table = re.search(r"(?:^\|.*\n)+", rest, flags=re.MULTILINE)
    assert table is not None
    lines = table.group(0).splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def all_errors(kind: type[errors.MoeExportError]) -> set[type[errors.MoeExportError]]:
    return {kind}.union(*(all_errors(child) for child in kind.__subclasses__()))


def test_the_status_of_each_target_is_the_program_s():
    said = {
        name: not status.startswith("not built")
        for what, status in rows("What is built")
        if what.startswith("target")
        for name in re.findall(r"`([a-z-]+)`", what.partition(":")[0])
    }
    assert said == {name: target.built for name, target in TARGETS.items()}


def test_the_exit_codes_are_those_of_the_errors():
    _, _, after = README.partition("Exit codes:")
    said = {int(code) for code in re.findall(r"^\| (\d+) \|", after, flags=re.MULTILINE)}
    assert said == {0} | {kind.exit_code for kind in all_errors(errors.MoeExportError)}


def test_every_command_is_listed():
    said = {re.match(r"`moe-export (\w+)", command).group(1) for command, _ in rows("Commands")}
    assert said - {"MODEL"} == set(program.commands) - {"export"}
