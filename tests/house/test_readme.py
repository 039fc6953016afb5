"""The tables of the README say what the program says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from house.pages import ROOT
from moe_export import errors
from moe_export.cli import program
from moe_export.spec import TARGETS

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
    assert said == dict.fromkeys(TARGETS, True)


def test_the_exit_codes_are_those_of_the_errors():
    _, _, after = README.partition("Exit codes:")
    said = {int(code) for code in re.findall(r"^\| (\d+) \|", after, flags=re.MULTILINE)}
    assert said == {0} | {kind.exit_code for kind in all_errors(errors.MoeExportError)}


def test_every_command_is_listed():
    said = {re.match(r"`moe-export (\w+)", command).group(1) for command, _ in rows("Commands")}
    assert said - {"MODEL"} == set(program.commands) - {"export"}


def side(answers: list[str]) -> Any:
    from digits_vlm.measure import Measured, Routing

    routing = Routing(topk_ids=np.array([[0, 1], [2, 3]]), margins=np.array([0.5, 0.25]))
    routings = {"blocks.0.moe": routing}
    return Measured(answers=answers, batched=0.001, single=0.01, routing=routings)


@pytest.fixture
def demo_table(monkeypatch, tmp_path) -> list[str]:
    """The demo's table about made-up numbers."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    from digits_vlm.evaluate import held_out_questions
    from digits_vlm.kept import Made
    from digits_vlm.table import Shown, lines

    answers = [question.answer for question in held_out_questions().questions]
    (tmp_path / "model.pt").write_bytes(b"")
    tensor = {"name": "y", "passed": True, "max_error": 1.0, "eager_error": 1.0, "tolerance": 2.0}
    made = Made(key="", seconds=1.0, peak_bytes=2**20)
    shown = Shown(
        checkpoint=tmp_path / "model.pt",
        bundle=tmp_path,
        trained=made,
        exported=made,
        validated_in=1.0,
        report={"passed": True, "tensors": [tensor], "not_run": {}},
        eager=side(answers),
        bundled=side(["", *answers[1:]]),
        threads=2,
    )
    return list(lines(shown))


def labels(table: list[str]) -> list[str]:
    return [re.split(r"\s{2,}", line.strip())[0] for line in table]


def test_the_demo_s_table_is_shown_as_it_is_printed(demo_table):
    _, _, after = README.partition("cannot import\nPyTorch:")
    shown = re.search(r"```\n(.*?)```", after, flags=re.DOTALL).group(1)
    assert labels(demo_table) == labels(shown.splitlines())[: len(demo_table)]


def test_one_wrong_answer_in_thousands_is_not_rounded_away(demo_table):
    quality = demo_table[0]
    assert "eager 100" in quality
    assert "bundle 99.9" in quality
