"""Errors of tensors inside their envelopes: the eager model's own, the tolerance, the bundle's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moe_export.forms import Report, TensorParity
from moe_export.report.figures import error, plural
from moe_export.report.html import colours
from moe_export.report.html.axes import LogAxis, colour, named_rows
from moe_export.report.html.parts import Figure, Section, Table, layer_words, short_names, table
from moe_export.report.text import worst

_ROLES = {
    "x": ("What enters the experts", "The rows that each MoE layer gives its experts."),
    "y": ("What leaves the block", "The output of each MoE block."),
    "experts": (
        "Every expert",
        "The experts alone, on made-up tokens that visit each of them, the routing given.",
    ),
}
_ENVELOPE = "eager's own error to tolerance"
_EAGER = "eager model"
_WITHIN = "bundle"
_BEYOND = "bundle, failed"
_REWRITTEN = "rewritten model in PyTorch"
_REPLAYED = "bundle with eager's routing"
_SERIES = {
    _ENVELOPE: (colours.ENVELOPE, "square"),
    _EAGER: (colours.EAGER, "M-1,-0.2H1V0.2H-1Z"),
    _WITHIN: (colours.BUNDLE, "circle"),
    _BEYOND: (colours.BEYOND, "triangle-up"),
    _REWRITTEN: (colours.REWRITTEN, "diamond"),
    _REPLAYED: (colours.REPLAYED, "cross"),
}


def errors(report: Report) -> Section | None:
    """A figure for each role that tensors of layers have, and one for the outputs."""
    figures = [
        _of_layers(role, tensors) for role, tensors in _by_role(report.tensors).items() if tensors
    ]
    outputs = [tensor for tensor in report.tensors if tensor.kind == "output"]
    if outputs:
        figures.append(_of_outputs(outputs))
    if not figures:
        return None
    return Section(
        anchor="errors",
        title="Errors and their envelopes",
        says="Largest absolute difference from the float64 reference, on a logarithmic scale. "
        "A bundle may be as wrong as rounding explains: the bar goes from the eager model's own "
        "error up to the tolerance that follows from it. Of several cases the one is shown that is "
        "nearest its tolerance.",
        figures=tuple(figures),
    )


def _by_role(tensors: Iterable[TensorParity]) -> dict[str, list[TensorParity]]:
    by_role: dict[str, list[TensorParity]] = {}
    for tensor in tensors:
        if tensor.kind != "output":
            by_role.setdefault(tensor.name.rpartition("/")[2], []).append(tensor)
    return by_role


def _of_layers(role: str, tensors: Sequence[TensorParity]) -> Figure:
    title, says = _ROLES.get(role, (role, f"The tensor {role} of each MoE layer."))
    by_layer = _worst({tensor: tensor.name.rpartition("/")[0] for tensor in tensors})
    names = short_names(by_layer)
    return Figure(
        title=title,
        says=says,
        table=_table("MoE layer", {layer_words(name): each for name, each in by_layer.items()}),
        chart=_chart(
            "MoE layer", {names[name]: each for name, each in by_layer.items()}, along=True
        ),
    )


def _of_outputs(tensors: Sequence[TensorParity]) -> Figure:
    by_name = _worst({tensor: tensor.name for tensor in tensors})
    return Figure(
        title="Outputs",
        says="What the model's graphs return.",
        table=_table("output", by_name),
        chart=_chart("output", by_name, along=False),
    )


def _worst(named: Mapping[TensorParity, str]) -> dict[str, TensorParity]:
    """By name, the tensor that is nearest its tolerance, or furthest beyond it."""
    by_name: dict[str, list[TensorParity]] = {}
    for tensor, name in named.items():
        by_name.setdefault(name, []).append(tensor)
    return {name: found for name, each in by_name.items() if (found := worst(each)) is not None}


def _part(tensor: TensorParity) -> str:
    """Of its tolerance that an error takes; a tensor of zeros has none."""
    if tensor.tolerance:
        return f"{tensor.max_error / tensor.tolerance:.2g}"
    return "inf" if tensor.max_error else "0"


def _table(what: str, tensors: Mapping[str, TensorParity]) -> Table:
    return table(
        (
            what,
            "case",
            "eager's own error",
            "tolerance",
            "bundle's error",
            "of tolerance",
            "within",
        ),
        [
            (
                name,
                tensor.case,
                error(tensor.eager_error),
                error(tensor.tolerance),
                error(tensor.max_error),
                _part(tensor),
                "yes" if tensor.passed else "no",
            )
            for name, tensor in tensors.items()
        ],
    )


def _chart(what: str, tensors: Mapping[str, TensorParity], *, along: bool) -> dict[str, Any]:
    """Names ``along`` the page or down it, errors the other way."""
    axis = LogAxis.over(
        number
        for tensor in tensors.values()
        for number in (tensor.eager_error, tensor.tolerance, *_marks(tensor).values())
    )
    place, size = ("x", "y") if along else ("y", "x")
    of_names = {
        "field": "name",
        "type": "nominal",
        "sort": list(tensors),
        "title": what,
        "axis": {"labelOverlap": "greedy", "ticks": False},
    }
    of_errors = {
        "type": "quantitative",
        "scale": axis.scale(),
        "title": "absolute error",
        "axis": {"format": "~e", "tickCount": 5, "labelOverlap": "greedy"},
    }
    seen = _seen(tensors.values())
    by_colour = {
        "scale": colour(seen, [_SERIES[name][0] for name in seen]),
        "legend": {"title": None, "columns": 1},
    }
    return {
        "data": {"values": [_envelope(name, tensor, axis) for name, tensor in tensors.items()]},
        **({"height": 180} if along else named_rows(len(tensors))),
        "encoding": {place: of_names, "description": {"field": "said"}},
        "layer": [
            {
                "mark": {"type": "bar", "size": _bar_width(len(tensors), along=along)},
                "encoding": {
                    size: {"field": "eager", **of_errors},
                    f"{size}2": {"field": "tolerance"},
                    "color": {"datum": _ENVELOPE, **by_colour},
                },
            },
            {
                "mark": {"type": "tick", "thickness": 2},
                "encoding": {
                    size: {"field": "eager", **of_errors},
                    "color": {"datum": _EAGER, **by_colour},
                },
            },
            {
                "data": {"values": _points(tensors, axis)},
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 50},
                "encoding": {
                    size: {"field": "error", **of_errors},
                    "color": {"field": "series", "type": "nominal", **by_colour},
                    "shape": {
                        "field": "series",
                        "type": "nominal",
                        "scale": colour(seen, [_SERIES[name][1] for name in seen]),
                        "legend": None,
                    },
                },
            },
        ],
    }


def _bar_width(count: int, *, along: bool) -> float:
    return max(2.0, min(12.0, 200 / count)) if along else 10.0


def _marks(tensor: TensorParity) -> dict[str, float]:
    """The errors that are drawn as points, by series."""
    marks = {_WITHIN if tensor.passed else _BEYOND: tensor.max_error}
    if tensor.rewritten_error is not None:
        marks[_REWRITTEN] = tensor.rewritten_error
    if tensor.replayed_error is not None:
        marks[_REPLAYED] = tensor.replayed_error
    return marks


def _seen(tensors: Iterable[TensorParity]) -> list[str]:
    marks = {series for tensor in tensors for series in _marks(tensor)}
    return [series for series in _SERIES if series in marks | {_ENVELOPE, _EAGER}]


def _envelope(name: str, tensor: TensorParity, axis: LogAxis) -> dict[str, Any]:
    return {
        "name": name,
        "eager": axis.at(tensor.eager_error),
        "tolerance": axis.at(tensor.tolerance),
        "said": f"{tensor.name}, {tensor.case}: eager's own error {error(tensor.eager_error)}, "
        f"tolerance {error(tensor.tolerance)}, over {plural(tensor.elements, 'number')}",
    }


def _points(tensors: Mapping[str, TensorParity], axis: LogAxis) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "error": axis.at(number),
            "series": series,
            "said": f"{tensor.name}, {tensor.case}: {series} {error(number)}, "
            f"tolerance {error(tensor.tolerance)}",
        }
        for name, tensor in tensors.items()
        for series, number in reversed(_marks(tensor).items())  # the bundle's on top
    ]
