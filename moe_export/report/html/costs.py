"""What a bundle weighs, what its rounding costs, and what the validation took."""

from __future__ import annotations

from moe_export.forms import Report, RoundingCost
from moe_export.report.figures import error, share, size
from moe_export.report.html.axes import bars
from moe_export.report.html.parts import Figure, Section, layer_words, table


def costs(report: Report) -> Section | None:
    """Figures for what was recorded of sizes, times and rounding."""
    figures = []
    if report.nbytes:
        figures.append(_sizes(report))
    if report.seconds:
        figures.append(_times(report))
    if report.rounding is not None:
        figures.append(_rounding(report.rounding))
        if report.rounding.routing:
            figures.append(_routing(report.rounding))
    if not figures:
        return None
    words = f"{size(sum(report.nbytes.values()))} on disk" if report.nbytes else "sizes unknown"
    return Section(
        anchor="costs",
        title="Sizes, times and the price of rounding",
        says=f"Experts in {report.precision}; {words}.",
        figures=tuple(figures),
    )


def _sizes(report: Report) -> Figure:
    parts = sorted(report.nbytes.items(), key=lambda item: -item[1])
    values = [
        {"part": name, "size": count / 2**20, "said": f"{name}: {size(count)}"}
        for name, count in parts
    ]
    return Figure(
        title="On disk",
        says="The bundle's files by what they are for.",
        table=table(("files", "size", "bytes"), [(n, size(c), f"{c:,}") for n, c in parts]),
        chart=bars(values, down="part", along="size", title="MiB"),
    )


def _times(report: Report) -> Figure:
    values = [
        {"step": name, "seconds": took, "said": f"{name}: {took:.3g} s"}
        for name, took in report.seconds.items()
    ]
    return Figure(
        title="Times",
        says="What the validation took, by step.",
        table=table(("step", "seconds"), [(n, f"{s:.3g}") for n, s in report.seconds.items()]),
        chart=bars(values, down="step", along="seconds", title="seconds"),
    )


def _rounding(cost: RoundingCost) -> Figure:
    return Figure(
        title="Rounding and the outputs",
        says="The rounded eager model beside the eager model as it was. For information: a bundle "
        "is compared with the rounded one.",
        table=table(
            ("output", "relative error", "1 - cosine"),
            [
                (name, error(each.relative_error), error(max(0.0, 1.0 - each.cosine)))
                for name, each in cost.outputs.items()
            ],
        ),
    )


def _routing(cost: RoundingCost) -> Figure:
    return Figure(
        title="Rounding and the routing",
        says="Tokens that choose the same experts as without rounding.",
        table=table(
            ("MoE layer", "the same experts"),
            [(layer_words(layer), share(part)) for layer, part in cost.routing.items()],
        ),
    )
