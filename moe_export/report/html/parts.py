"""What a page is made of, before it is drawn or written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_export.forms import shared_words

Rows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Words under headings; the first column names the row."""

    head: tuple[str, ...]
    rows: Rows
    more: int = 0
    """Rows that were left out because there are so many; the JSON has them."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart and its numbers.  Without a ``chart`` the numbers stand alone."""

    title: str
    says: str
    """What is drawn, in one or two sentences."""

    table: Table
    chart: Mapping[str, Any] | None = None
    """A Vega-Lite specification."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Words under labels, where a table would be too wide."""

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page that can be linked to."""

    anchor: str
    title: str
    says: str
    figures: tuple[Figure, ...] = ()
    facts: tuple[Facts, ...] = ()


# A page that lists more than this is not read; the JSON has all.
MOST_ROWS = 200

_LATER_PASS = re.compile(r"@[0-9]+$")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """At most ``MOST_ROWS`` rows, and how many more there are."""
    listed = [tuple(row) for row in rows]
    return Table(
        head=tuple(head), rows=tuple(listed[:MOST_ROWS]), more=max(0, len(listed) - MOST_ROWS)
    )


def layer_words(layer: str) -> str:
    """A layer's name; that of a block which is the whole model is empty."""
    return layer or "the model"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without the dotted parts that all of them begin with and end with.

    ``model.layers.0.mlp`` and ``model.layers.1.mlp`` are ``0`` and ``1``, and the second pass over
    the latter, ``model.layers.1.mlp@2``, is ``1@2``.  A single name stays whole, and so do all
    where nothing would be left of one.
    """
    ends = {name: "".join(_LATER_PASS.findall(name)) for name in dict.fromkeys(names)}
    split = {name: layer_words(name.removesuffix(end)).split(".") for name, end in ends.items()}
    if len(split) < 2:
        return {name: layer_words(name) for name in split}
    front = shared_words(split.values())
    back = shared_words([parts[front:][::-1] for parts in split.values()])
    if any(len(parts) <= front + back for parts in split.values()):
        front = back = 0
    return {
        name: ".".join(parts[front : len(parts) - back]) + ends[name]
        for name, parts in split.items()
    }
