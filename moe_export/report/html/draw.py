"""A Vega-Lite specification becomes an SVG that stands in a page: no script, no link, no font."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from moe_export.errors import MissingEnvironmentError
from moe_export.report.figures import printable
from moe_export.report.html.colours import GRID, INK

_SVG = "http://www.w3.org/2000/svg"
# What Vega draws with.  Anything else would be a way out of the picture.
_TAGS = frozenset(("svg", "g", "path", "rect", "line", "text", "tspan", "circle"))
# Colours and places; the page says what letters look like, and what is read aloud.
_PLACES = ("transform", "d", "x", "y", "x2", "y2", "width", "height", "cx", "cy", "r", "dx", "dy")
_PAINT = ("fill", "fill-opacity", "opacity", "stroke", "stroke-width", "stroke-dasharray")
_LETTERS = ("text-anchor", "font-size", "font-weight")
_ATTRIBUTES = frozenset(("viewBox", *_PLACES, *_PAINT, *_LETTERS))

# What Vega describes besides data.
_NO_DATA = frozenset(("axis", "legend", "title"))

_CONFIG: Mapping[str, Any] = {
    "background": None,
    # Letters are measured here and set by the reader's system, whose own may be a fifth wider.
    "font": "sans-serif",
    "padding": {"left": 16, "right": 8, "top": 5, "bottom": 5},
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": GRID,
        "tickColor": GRID,
        "gridColor": GRID,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 12,
        "labelLimit": 100,
    },
    "axisX": {"labelAngle": 0, "labelSeparation": 6},
    "legend": {
        "orient": "bottom",
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titleLimit": 320,
        "labelLimit": 280,
        "columnPadding": 24,
        "symbolOpacity": 1,
        "symbolStrokeColor": GRID,
        "symbolStrokeWidth": 1,
    },
}

WIDTH = 250
"""Of what is within the axes: with them it fills a phone of 360 pixels at about its own size."""


def draw(chart: Mapping[str, Any]) -> str:
    """The SVG of ``chart``; what a mark's ``description`` says is its title, which a pointer shows.

    Raises ``MissingEnvironmentError`` where what draws it is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise missing(error) from error
    drawn = vl_convert.vegalite_to_svg(_said({"config": _CONFIG, "width": WIDTH, **chart}))
    return _for_a_page(ElementTree.fromstring(drawn))  # noqa: S314 - Vega wrote it, just now


def _said(value: Any) -> Any:
    """``value`` with printable words alone: any other letter ends the process that draws it."""
    if isinstance(value, Mapping):
        return {key: _said(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_said(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def missing(error: ImportError) -> MissingEnvironmentError:
    """What to install for a page."""
    return MissingEnvironmentError(
        f"a page needs the package {error.name}, which is not installed",
        where="moe-export report",
        hint="pip install 'moe-export[report]'",
    )


def _for_a_page(root: ElementTree.Element) -> str:
    kept = _kept(root)
    for measure in ("width", "height"):  # as wide as the page allows
        kept.attrib.pop(measure, None)
    # The figure's caption and table speak for it.
    kept.set("aria-hidden", "true")
    kept.set("focusable", "false")
    return ElementTree.tostring(kept, encoding="unicode")


def _kept(element: ElementTree.Element) -> ElementTree.Element:
    """``element`` without what no page needs, and its description as a title."""
    tag = element.tag.removeprefix(f"{{{_SVG}}}")
    kept = ElementTree.Element(tag)
    kept.text = element.text
    for name, value in element.items():
        if name in _ATTRIBUTES:
            kept.set(name, value)
    said = element.get("aria-label")
    if said and element.get("role") == "graphics-symbol" and _role(element) not in _NO_DATA:
        ElementTree.SubElement(kept, "title").text = said
    for inner in element:
        if inner.tag.removeprefix(f"{{{_SVG}}}") in _TAGS and not _is_empty(inner):
            kept.append(_kept(inner))
    return kept


def _role(element: ElementTree.Element) -> str:
    """What an element stands for: ``bar``, ``point``, ``rect mark``, ``axis``."""
    return element.get("aria-roledescription", "")


def _is_empty(element: ElementTree.Element) -> bool:
    """Backgrounds and foregrounds that nothing is drawn on."""
    return element.get("aria-hidden") == "true"
