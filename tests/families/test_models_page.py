"""docs/models.md knows every family that there is a record or a small model of."""

from __future__ import annotations

from pathlib import Path

from moe_export.moe.families import FAMILIES

from .stages import STAGES

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
