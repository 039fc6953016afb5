"""Whom routers chose: how evenly, and for which modality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from moe_export.forms import ExpertLoad, Report
from moe_export.report.balance import Balance, balances, relative, total
from moe_export.report.figures import plural
from moe_export.report.html import colours
from moe_export.report.html.axes import Cell, Levels, heat_map
from moe_export.report.html.parts import Figure, Section, Table, layer_words, short_names, table

# Upper bounds of the levels behind the first, which is none at all; 1 is the even share.
_BOUNDS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
_LOAD = Levels(
    title="times the even share",
    names=(
        "none",
        "below ¼",
        "¼ to ½",
        "½ to ¾",
        "¾ to 1",
        "1 to 1½",
        "1½ to 2",
        "2 to 4",
        "4 or more",
    ),
    colours=colours.RAMP,
)
_NONE = 0
# How many times as large a share is before it leans to one side, to the next level, …
_LEANS = (1.25, 2.0, 4.0)


def loads(report: Report) -> Section | None:
    """Heat maps of experts and layers, and how even the load is."""
    if not any(any(load.choices) for load in report.loads):
        return None
    layers = balances(report.loads)
    dead = sum(len(each.dead) for each in layers)
    return Section(
        anchor="loads",
        title="Load of the experts",
        says=f"Whom the bundle's routers chose on the golden cases, "
        f"{plural(len(layers), 'MoE layer')}. An expert's even share is what it would have if "
        f"all of its layer were chosen alike. Never chosen: {plural(dead, 'expert')}.",
        figures=(_utilisation(layers), _entropy(layers), _peak(layers)),
    )


def modalities(report: Report) -> Section | None:
    """Which experts see images and which see text; ``None`` where only one kind is known."""
    kinds = list(dict.fromkeys(load.modality for load in report.loads if any(load.choices)))
    if len(kinds) < 2:
        return None
    figures = [_overall(report.loads, kinds)]
    figures += [_of_modality(report.loads, kind) for kind in kinds]
    figures += [_lean(report.loads, kinds[0], other) for other in kinds[1:]]
    return Section(
        anchor="modalities",
        title="Modalities",
        says="The load of the experts by what their tokens are: "
        + ", ".join(f"{kind} ({_tokens(report.loads, kind)} per layer at most)" for kind in kinds)
        + ". Each is held against its own even share, so that few tokens weigh as much as many.",
        figures=tuple(figures),
    )


def _utilisation(layers: Sequence[Balance]) -> Figure:
    names = short_names(each.layer for each in layers)
    return Figure(
        title="Experts and layers",
        says="How often each expert was chosen. Outlined: never.",
        table=_choices_table("MoE layer", [(layer_words(e.layer), e.choices) for e in layers]),
        chart=heat_map(
            _cells([(names[each.layer], each.choices) for each in layers]),
            _LOAD,
            rows="MoE layer",
            outlined=_NONE,
        ),
    )


def _entropy(layers: Sequence[Balance]) -> Figure:
    names = short_names(each.layer for each in layers)
    values = [
        {
            "layer": names[each.layer],
            "entropy": each.entropy,
            "said": f"{layer_words(each.layer)}: entropy {each.entropy:.3f} of 1",
        }
        for each in layers
        if not math.isnan(each.entropy)
    ]
    return Figure(
        title="Entropy",
        says="Of the experts' shares, in parts of its largest: 1 where all are chosen alike, 0 "
        "where one is chosen alone.",
        table=_balance_table(layers),
        chart=_columns(values, "entropy", title="entropy", top=1.0),
    )


def _peak(layers: Sequence[Balance]) -> Figure:
    names = short_names(each.layer for each in layers)
    values = [
        {
            "layer": names[each.layer],
            "peak": each.peak,
            "said": f"{layer_words(each.layer)}: the busiest expert has {each.peak:.2f} times the "
            f"mean; {plural(len(each.dead), 'expert')} never chosen",
        }
        for each in layers
        if not math.isnan(each.peak)
    ]
    return Figure(
        title="Busiest expert",
        says="Choices of the busiest expert over the mean: what expert parallelism waits for.",
        table=_balance_table(layers),
        chart=_columns(values, "peak", title="times the mean"),
    )


def _balance_table(layers: Sequence[Balance]) -> Table:
    return table(
        ("MoE layer", "tokens", "entropy", "busiest over mean", "never chosen"),
        [
            (
                layer_words(each.layer),
                str(each.tokens),
                _number(each.entropy),
                _number(each.peak),
                ", ".join(map(str, each.dead)) or "none",
            )
            for each in layers
        ],
    )


def _number(number: float) -> str:
    return "no token" if math.isnan(number) else f"{number:.3g}"


def _overall(all_loads: Sequence[ExpertLoad], kinds: Sequence[str]) -> Figure:
    rows = [(kind, total(_of(all_loads, kind))) for kind in kinds]
    return Figure(
        title="All layers together",
        says="Choices by the expert's number, added up over layers.",
        table=_choices_table("modality", rows),
        chart=heat_map(_cells(rows), _LOAD, rows="modality", outlined=_NONE),
    )


def _of_modality(all_loads: Sequence[ExpertLoad], kind: str) -> Figure:
    layers = _of(all_loads, kind)
    names = short_names(load.layer for load in layers)
    return Figure(
        title=f"Layer by layer: {kind}",
        says=f"Whom tokens of the kind {kind} chose.",
        table=_choices_table("MoE layer", [(layer_words(e.layer), e.choices) for e in layers]),
        chart=heat_map(
            _cells([(names[load.layer], load.choices) for load in layers]),
            _LOAD,
            rows="MoE layer",
            outlined=_NONE,
        ),
    )


def _lean(all_loads: Sequence[ExpertLoad], one: str, other: str) -> Figure:
    ones = {load.layer: relative(load.choices) for load in _of(all_loads, one)}
    others = {load.layer: relative(load.choices) for load in _of(all_loads, other)}
    layers = [layer for layer in ones if layer in others]
    names = short_names(layers)
    cells = [
        Cell(
            column=expert,
            row=names[layer],
            level=_side(a, b),
            said=f"{layer_words(layer)}, expert {expert}: {a:.2f} times the even share of {one}, "
            f"{b:.2f} times that of {other}",
        )
        for layer in layers
        for expert, (a, b) in enumerate(zip(ones[layer], others[layer], strict=False))
    ]
    to_other = [f"{other}, 4 times", f"{other}, twice", f"{other}, a little"]
    to_one = [f"{one}, a little", f"{one}, twice", f"{one}, 4 times"]
    levels = Levels(
        title="leans to", names=(*to_other, "about even", *to_one), colours=colours.LEAN, columns=2
    )
    return Figure(
        title=f"Layer by layer: {one} against {other}",
        says=f"Which of the two an expert prefers: its share of {one} beside that of {other}.",
        table=table(
            ("MoE layer", "expert", f"{one}, times the even share", f"{other}, the same"),
            [
                (layer_words(layer), str(expert), f"{a:.2f}", f"{b:.2f}")
                for layer in layers
                for expert, (a, b) in enumerate(zip(ones[layer], others[layer], strict=False))
            ],
        ),
        chart=heat_map(cells, levels, rows="MoE layer") if cells else None,
    )


def _side(one: float, other: float) -> int:
    """The level of ``one`` beside ``other``: 3 in the middle, 6 where it is four times as much."""
    if one == other:
        return 3
    steps = sum(max(one, other) >= lean * min(one, other) for lean in _LEANS)
    return 3 + steps if one > other else 3 - steps


def _of(all_loads: Iterable[ExpertLoad], kind: str) -> list[ExpertLoad]:
    return [load for load in all_loads if load.modality == kind and any(load.choices)]


def _tokens(all_loads: Iterable[ExpertLoad], kind: str) -> str:
    return plural(max(load.tokens for load in _of(all_loads, kind)), "token")


def _cells(rows: Sequence[tuple[str, Sequence[int]]]) -> list[Cell]:
    return [
        Cell(
            column=expert,
            row=row,
            level=_level(times),
            said=f"{row}, expert {expert}: chosen {plural(choices[expert], 'time')}, "
            f"{times:.2f} times the even share",
        )
        for row, choices in rows
        for expert, times in enumerate(relative(choices))
    ]


def _level(times: float) -> int:
    return 0 if not times else 1 + sum(times >= bound for bound in _BOUNDS)


def _choices_table(what: str, rows: Sequence[tuple[str, Sequence[int]]]) -> Table:
    experts = max(len(choices) for _, choices in rows)
    return table(
        (what, *(str(expert) for expert in range(experts))),
        [(name, *map(str, choices), *[""] * (experts - len(choices))) for name, choices in rows],
    )


def _columns(
    values: Sequence[dict[str, Any]], field: str, *, title: str, top: float | None = None
) -> dict[str, Any]:
    """A column for each layer."""
    scale = {} if top is None else {"scale": {"domain": [0, top]}}
    return {
        "data": {"values": list(values)},
        "height": 130,
        "mark": {"type": "bar", "color": colours.BUNDLE},
        "encoding": {
            "x": {
                "field": "layer",
                "type": "nominal",
                "sort": [value["layer"] for value in values],
                "title": "MoE layer",
                "axis": {"labelOverlap": "greedy", "ticks": False},
            },
            "y": {"field": field, "type": "quantitative", "title": title, **scale}
            | {"axis": {"tickCount": 5}},
            "description": {"field": "said"},
        },
    }
