"""Scales that several charts share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_export.report.html.colours import BUNDLE, PAGE

_FEW = 40
"""Columns up to which cells are wide enough to have a gap between them."""


@dataclass(frozen=True, kw_only=True)
class LogAxis:
    """A logarithmic axis for errors, with a place at its ends for what has no logarithm."""

    floor: float
    """Where 0 stands."""

    ceiling: float
    """Where infinity and NaN stand."""

    @classmethod
    def over(cls, numbers: Iterable[float]) -> LogAxis:
        """For these numbers: half a power of ten beyond the outermost."""
        seen = [number for number in numbers if 0 < number < math.inf]
        low, high = (min(seen), max(seen)) if seen else (1e-9, 1.0)
        # Not below: Vega's numbers are doubles, and so is this.
        return cls(floor=max(low / 3, 1e-300), ceiling=min(high * 3, 1e300))

    def at(self, number: float) -> float:
        """Where ``number`` is drawn."""
        if math.isnan(number):
            return self.ceiling
        return min(max(number, self.floor), self.ceiling)

    def scale(self) -> Mapping[str, Any]:
        """For Vega-Lite."""
        return {"type": "log", "domain": [self.floor, self.ceiling], "nice": False, "clamp": True}


def colour(domain: Sequence[str], range_: Sequence[str]) -> Mapping[str, Any]:
    """The scale of a legend: each word and its colour."""
    return {"domain": list(domain), "range": list(range_)}


def row_step(rows: int) -> Mapping[str, int]:
    """A height for so many rows of words or cells."""
    return {"step": 20 if rows <= 12 else 13}


def named_rows(rows: int) -> Mapping[str, Any]:
    """Width and height for rows whose names may be long."""
    return {"width": 190, "height": row_step(rows)}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a heat map."""

    column: int
    row: str
    level: int
    """Which of the levels it is at."""

    said: str


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Names of levels from first to last, the colour of each, and what they measure."""

    title: str
    names: tuple[str, ...]
    colours: tuple[str, ...]
    columns: int = 3
    """Of the legend."""


def heat_map(
    cells: Sequence[Cell], levels: Levels, *, rows: str, outlined: int | None = None
) -> dict[str, Any]:
    """Experts along, ``rows`` down; cells of the level ``outlined`` are drawn round, on top."""
    columns = 1 + max(cell.column for cell in cells)
    names = list(dict.fromkeys(cell.row for cell in cells))
    values = [
        {
            "expert": cell.column,
            "row": cell.row,
            "level": levels.names[cell.level],
            "said": cell.said,
        }
        for cell in cells
    ]
    encoding = {
        "x": {
            "field": "expert",
            "type": "ordinal",
            "title": "expert",
            "axis": {"labelOverlap": "greedy", "ticks": False, "domain": False},
        },
        "y": {
            "field": "row",
            "type": "nominal",
            "sort": names,
            "title": rows,
            "axis": {"labelOverlap": "greedy", "ticks": False, "domain": False},
        },
        "color": {
            "field": "level",
            "type": "nominal",
            "sort": list(levels.names),
            "scale": colour(levels.names, levels.colours),
            "legend": {"title": levels.title, "columns": levels.columns, "symbolType": "square"},
        },
        "description": {"field": "said"},
    }
    gap = {"stroke": PAGE, "strokeWidth": 1 if columns <= _FEW else 0}
    layers: list[Any] = [{"mark": {"type": "rect", **gap}}]
    if outlined is not None:
        layers.append(
            {
                "transform": [{"filter": {"field": "level", "equal": levels.names[outlined]}}],
                "mark": {
                    "type": "rect",
                    "stroke": levels.colours[-1],
                    "strokeWidth": 1 if columns <= _FEW else 0.5,
                },
            }
        )
    return {
        "data": {"values": values},
        "height": row_step(len(names)),
        "encoding": encoding,
        "layer": layers,
    }


def bars(values: Sequence[dict[str, Any]], *, down: str, along: str, title: str) -> dict[str, Any]:
    """A bar for each name."""
    return {
        "data": {"values": list(values)},
        **named_rows(len(values)),
        "mark": {"type": "bar", "color": BUNDLE},
        "encoding": {
            "y": {
                "field": down,
                "type": "nominal",
                "sort": [value[down] for value in values],
                "title": None,
                "axis": {"ticks": False},
            },
            "x": {"field": along, "type": "quantitative", "title": title, "axis": {"tickCount": 4}},
            "description": {"field": "said"},
        },
    }
