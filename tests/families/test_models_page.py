"""docs/models.md knows every family that there is a record or a small model of, and the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_export.moe.families import FAMILIES

from .catalogue import CASES, STOPPED
from .stages import STAGES
from .untried import NOT_TRIED, NOT_TRIED_TEXT, OTHER_TASKS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def rows():
    lines = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return {
        cells[0].strip("| `"): cells[1 : 1 + len(STAGES)]
        for cells in lines
        if cells[0].startswith("| `")
    }


def test_every_record_has_a_row():
    assert not set(FAMILIES) - set(rows())


def test_a_family_with_a_record_comes_to_the_end():
    assert {name: rows()[name] for name in FAMILIES} == {
        name: ["yes"] * len(STAGES) for name in FAMILIES
    }


def test_every_family_that_was_tried_has_a_row():
    assert set(rows()) == {case.family for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_a_family_comes_to_the_end_or_to_where_it_stops(case):
    stop = STOPPED.get(case.family)
    passed = STAGES if stop is None else STAGES[: STAGES.index(stop.stage)]
    assert rows()[case.family][: len(passed)] == ["yes"] * len(passed)
    assert "yes" not in rows()[case.family][len(passed) :]


@pytest.mark.parametrize("families", [NOT_TRIED, NOT_TRIED_TEXT, OTHER_TASKS])
def test_what_was_not_run_is_listed_with_the_reason(families):
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert {f"- `{name}`: {reason}" for name, reason in families.items()} <= set(lines)
