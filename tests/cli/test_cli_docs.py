"""docs/cli.md shows the help that the program prints."""

from __future__ import annotations

import re

import pytest

from cli.help_pages import BLOCK, PAGE, regenerated
from moe_export import errors
from moe_export.cli import program
from moe_export.cli.program import INTERRUPTED, PIPE_CLOSED, TERMINATED


def test_the_help_in_the_docs_is_the_program_s():
    page = PAGE.read_text()
    assert page == regenerated(page)


def test_the_docs_show_the_help_of_every_command():
    shown = {found[1] for found in BLOCK.finditer(PAGE.read_text())}
    expected = {f"moe-export {name} --help" for name in program.commands}
    assert shown == {"moe-export --help", *expected}


def test_every_exit_code_is_documented():
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.MoeExportError)
    }
    rows = re.findall(r"^\| (\d+) \|", PAGE.read_text(), flags=re.MULTILINE)
    assert {int(row) for row in rows} == {0, *codes, INTERRUPTED, PIPE_CLOSED, TERMINATED}


@pytest.mark.parametrize("name", sorted(program.commands))
def test_every_option_is_explained_and_every_command_has_an_example(name):
    command = program.commands[name]
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help
    assert f"moe-export {name} " in command.epilog or name == "export"
