"""What the model says next: distributions, greedy continuations, and where they part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moe_export.forms import Generation, Report
from moe_export.report.figures import error, plural, share
from moe_export.report.html import colours
from moe_export.report.html.axes import colour
from moe_export.report.html.parts import Figure, Section, table


def answers(report: Report) -> Section | None:
    """Logits by modality, and for each prompt how far both continue alike."""
    figures = []
    if report.logits:
        figures.append(_logits(report))
    if report.generation:
        figures.append(_continuations(report))
    figures += [_candidates(each) for each in report.generation if each.eager and each.bundle]
    if not figures:
        return None
    parted = sum(each.agreed < each.steps for each in report.generation)
    return Section(
        anchor="answers",
        title="Next tokens",
        says=f"{plural(len(report.generation), 'prompt')} continued greedily by both; "
        f"{parted} of them part before the end.",
        figures=tuple(figures),
    )


def _logits(report: Report) -> Figure:
    return Figure(
        title="Distributions",
        says="Kullback-Leibler divergence of the bundle's next-token distribution from the eager "
        "model's, in nats.",
        table=table(
            ("case", "modality", "positions", "mean", "largest", "same likeliest token"),
            [
                (
                    each.case,
                    each.modality,
                    str(each.positions),
                    error(each.mean_divergence),
                    error(each.largest_divergence),
                    share(each.same_top1),
                )
                for each in report.logits
            ],
        ),
    )


def _continuations(report: Report) -> Figure:
    return Figure(
        title="Continuations",
        says="Greedy tokens that are the same from the first on.",
        table=table(
            ("case", "tokens", "the same", "explained"),
            [
                (each.case, str(each.steps), str(each.agreed), "yes" if each.explained else "no")
                for each in report.generation
            ],
        ),
    )


def _candidates(each: Generation) -> Figure:
    """The likeliest tokens of both where they part."""
    rows = list(_rows(each))
    tokens = list(dict.fromkeys(token for _, token, _ in rows))
    models = ("eager model", "bundle")
    explained = "as near as rounding may move them" if each.explained else "not explained"
    return Figure(
        title=f"{each.case}: token {each.agreed + 1}",
        says=f"The likeliest tokens where the two part, after {plural(each.agreed, 'token')} that "
        f"are the same. The two likeliest are {explained}."
        if each.explained
        else f"The likeliest tokens where the two part, after {plural(each.agreed, 'token')} that "
        "are the same. Rounding does not explain it.",
        table=table(
            ("model", "token", "probability"), [(who, token, f"{p:.4f}") for who, token, p in rows]
        ),
        chart={
            "data": {
                "values": [
                    {"model": who, "token": token, "p": p, "said": f"{who}, {token}: {p:.4f}"}
                    for who, token, p in rows
                ]
            },
            "height": {"step": 13},
            "mark": {"type": "bar"},
            "encoding": {
                "y": {
                    "field": "token",
                    "type": "nominal",
                    "sort": tokens,
                    "title": "token",
                    "axis": {"ticks": False},
                },
                "yOffset": {"field": "model", "type": "nominal", "sort": list(models)},
                "x": {
                    "field": "p",
                    "type": "quantitative",
                    "title": "probability",
                    "axis": {"tickCount": 5},
                },
                "color": {
                    "field": "model",
                    "type": "nominal",
                    "scale": colour(models, (colours.EAGER, colours.BUNDLE)),
                    "legend": {"title": None},
                },
                "description": {"field": "said"},
            },
        },
    )


def _rows(each: Generation) -> Iterator[tuple[str, Any, float]]:
    for who, candidates in (("eager model", each.eager), ("bundle", each.bundle)):
        for candidate in candidates:
            text = "" if candidate.text is None else f" {candidate.text!r}"
            yield who, f"{candidate.token}{text}", candidate.probability
