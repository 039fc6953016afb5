"""Routing beside the eager model's: agreement, flips, and experts that were nearly chosen."""

from __future__ import annotations

from collections.abc import Sequence

from moe_export.forms import Flip, Report, RoutingParity
from moe_export.report.figures import error, plural, share
from moe_export.report.html import colours
from moe_export.report.html.axes import LogAxis, bars, colour
from moe_export.report.html.parts import Figure, Section, layer_words, short_names, table
from moe_export.report.text import agreement

_SHOWN = 20
"""Pairs of experts in the chart; the table has more."""


def routing(report: Report) -> Section | None:
    """Agreement by layer, and every flip with its margin and noise."""
    if not report.routing:
        return None
    flips = [(each, flip) for each in report.routing for flip in each.flips]
    same = agreement(report)
    says = (
        "no token was compared"
        if same is None
        else f"{share(same)} of {plural(sum(each.tokens for each in report.routing), 'token')} "
        "choose the same experts"
    )
    figures = [_agreement(report.routing)]
    if flips:
        figures.append(_flips(flips))
    return Section(
        anchor="routing",
        title="Routing",
        says=f"{says[0].upper()}{says[1:]}; {plural(len(flips), 'flip')}, "
        f"{sum(not flip.explained for _, flip in flips)} of them not explained by rounding.",
        figures=tuple(figures),
    )


def conflicts(report: Report) -> Section | None:
    """Pairs of experts between which tokens were nearly undecided."""
    if not report.conflicts:
        return None
    names = short_names(each.layer for each in report.conflicts)
    most = sorted(report.conflicts, key=lambda each: (-each.tokens, each.smallest_margin))
    values = [
        {
            "pair": f"{names[each.layer]}: {each.chosen} over {each.runner_up}",
            "tokens": each.tokens,
            "said": f"{layer_words(each.layer)}: expert {each.chosen} before {each.runner_up}, "
            f"{plural(each.tokens, 'token')}, smallest margin {error(each.smallest_margin)}",
        }
        for each in most[:_SHOWN]
    ]
    shown = "The most frequent. " if len(most) > _SHOWN else ""
    return Section(
        anchor="conflicts",
        title="Experts in conflict",
        says="Tokens that nearly went to another expert: the one chosen last, before the first "
        "that was not chosen. These are the first to flip when numbers change.",
        figures=(
            Figure(
                title="Pairs",
                says=f"{shown}Layer, then the expert chosen over the runner-up.",
                table=table(
                    ("MoE layer", "chosen", "runner-up", "tokens", "smallest margin"),
                    [
                        (
                            layer_words(each.layer),
                            str(each.chosen),
                            str(each.runner_up),
                            str(each.tokens),
                            error(each.smallest_margin),
                        )
                        for each in most
                    ],
                ),
                chart=bars(values, down="pair", along="tokens", title="tokens"),
            ),
        ),
    )


def _agreement(routings: Sequence[RoutingParity]) -> Figure:
    by_layer: dict[str, list[RoutingParity]] = {}
    for each in routings:
        by_layer.setdefault(each.layer, []).append(each)
    return Figure(
        title="Agreement",
        says="Tokens whose set of experts is that of the eager model.",
        table=table(
            (
                "MoE layer",
                "tokens",
                "agreement",
                "flips",
                "unexplained",
                "weights' error",
                "passed",
            ),
            [_agreement_row(layer, cases) for layer, cases in by_layer.items()],
        ),
    )


def _agreement_row(layer: str, cases: Sequence[RoutingParity]) -> tuple[str, ...]:
    flips = [flip for case in cases for flip in case.flips]
    tokens = sum(case.tokens for case in cases)
    same = sum(case.tokens * case.agreement for case in cases)
    return (
        layer_words(layer),
        str(tokens),
        share(same / tokens) if tokens else "no token",
        str(len(flips)),
        str(sum(not flip.explained for flip in flips)),
        error(max(case.weight_error for case in cases)),
        "yes" if all(case.passed for case in cases) else "no",
    )


def _flips(flips: Sequence[tuple[RoutingParity, Flip]]) -> Figure:
    axis = LogAxis.over(number for _, flip in flips for number in (flip.margin, flip.noise))
    values = [
        {
            "margin": axis.at(flip.margin),
            "noise": axis.at(flip.noise),
            "series": "explained by rounding" if flip.explained else "not explained",
            "said": f"{layer_words(each.layer)}, {each.case}, token {flip.token}: margin "
            f"{error(flip.margin)}, noise {error(flip.noise)}",
        }
        for each, flip in flips
    ]
    series = {
        "explained by rounding": (colours.BUNDLE, "circle"),
        "not explained": (colours.BEYOND, "triangle-up"),
    }
    ends = [{"margin": end, "noise": end} for end in (axis.floor, axis.ceiling)]
    numbers = {"type": "quantitative", "scale": axis.scale()}
    style = {"format": "~e", "tickCount": 4, "labelOverlap": "greedy"}
    return Figure(
        title="Flips",
        says="Tokens that go to other experts than in the eager model. Above the line rounding "
        "moves scores by more than the margin that decided; below it something else is wrong.",
        table=table(
            ("MoE layer", "case", "token", "eager", "bundle", "margin", "noise", "explained"),
            [_flip_row(each, flip) for each, flip in sorted(flips, key=lambda f: f[1].explained)],
        ),
        chart={
            "height": 200,
            "encoding": {
                "x": {"field": "margin", "title": "margin of the eager model", **numbers}
                | {"axis": style},
                "y": {"field": "noise", "title": "noise of its scores", **numbers}
                | {"axis": style},
            },
            "layer": [
                {
                    "data": {"values": ends},
                    "mark": {"type": "line", "color": colours.EAGER, "strokeDash": [4, 3]},
                },
                {
                    "data": {"values": values},
                    "mark": {"type": "point", "filled": True, "opacity": 0.9, "size": 55},
                    "encoding": {
                        "color": {
                            "field": "series",
                            "type": "nominal",
                            "scale": colour(list(series), [c for c, _ in series.values()]),
                            "legend": {"title": None},
                        },
                        "shape": {
                            "field": "series",
                            "type": "nominal",
                            "scale": colour(list(series), [s for _, s in series.values()]),
                        },
                        "description": {"field": "said"},
                    },
                },
            ],
        },
    )


def _flip_row(each: RoutingParity, flip: Flip) -> tuple[str, ...]:
    return (
        layer_words(each.layer),
        each.case,
        str(flip.token),
        ", ".join(map(str, flip.eager)),
        ", ".join(map(str, flip.bundle)),
        error(flip.margin),
        error(flip.noise),
        "yes" if flip.explained else "no",
    )
