"""What a report tells beside its verdict: loads, logits, continuations, sizes; in lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moe_export.forms import Candidate, Generation, Report
from moe_export.report.balance import balances
from moe_export.report.figures import columns, error, plural, share, size

# A screen's worth; the JSON has all.
_SHOWN = 10


def sections(report: Report) -> list[list[str]]:
    """The parts of the text that follow tensors and routing; one that says nothing is empty."""
    return [_loads(report), _conflicts(report), _logits(report), _generation(report), _cost(report)]


def _loads(report: Report) -> list[str]:
    if not report.loads:
        return []
    rows = [("loads", "tokens", "entropy", "max/mean", "dead", "of")]
    for each in balances(report.loads):
        of = [load for load in report.loads if load.layer == each.layer]
        rows.append(
            (
                each.layer or "the model",
                str(each.tokens),
                _number(each.entropy, 3),
                _number(each.peak, 2),
                f"{len(each.dead)}/{len(each.choices)}",
                ", ".join(f"{load.tokens} {load.modality}" for load in of),
            )
        )
    aligned = columns([row[:-1] for row in rows], indent="")
    return [f"{line}  {row[-1]}" for line, row in zip(aligned, rows, strict=True)]


def _number(value: float, decimals: int) -> str:
    return "none" if math.isnan(value) else f"{value:.{decimals}f}"


def _conflicts(report: Report) -> list[str]:
    """The pairs that most tokens stood between."""
    ordered = sorted(report.conflicts, key=lambda each: -each.tokens)
    lines = [
        f"  {each.layer or 'the model'}: {each.chosen} before {each.runner_up}, "
        f"{plural(each.tokens, 'token')}, smallest margin {error(each.smallest_margin)}"
        for each in ordered[:_SHOWN]
    ]
    more = [f"  and {len(ordered) - _SHOWN} more"] if len(ordered) > _SHOWN else []
    return ["nearly undecided between experts", *lines, *more] if lines else []


def _logits(report: Report) -> list[str]:
    if not report.logits:
        return []
    rows = [("logits behind", "positions", "same top-1", "mean KL", "largest KL")]
    for modality in dict.fromkeys(each.modality for each in report.logits):
        cases = [each for each in report.logits if each.modality == modality]
        positions = sum(each.positions for each in cases)
        same = sum(each.same_top1 * each.positions for each in cases) / max(positions, 1)
        mean = sum(each.mean_divergence * each.positions for each in cases) / max(positions, 1)
        largest = max(each.largest_divergence for each in cases)
        rows.append((modality, str(positions), share(same), error(mean), error(largest)))
    return columns(rows, indent="")


def _generation(report: Report) -> list[str]:
    lines = [
        f"  {each.case}: {each.agreed} of {plural(each.steps, 'token')} agree{_differs(each)}"
        for each in report.generation
    ]
    return ["continuations", *lines] if lines else []


def _differs(each: Generation) -> str:
    if each.agreed == each.steps:
        return ""
    word = "explained" if each.explained else "not explained"
    return (
        f"; then eager says {_ranked(each.eager)}, the bundle {_ranked(each.bundle)}: "
        f"{word} by rounding"
    )


def _ranked(candidates: Sequence[Candidate]) -> str:
    """The two likeliest."""
    return " or ".join(
        f"{each.token if each.text is None else repr(each.text)} ({each.probability:.4f})"
        for each in candidates[:2]
    )


def _cost(report: Report) -> list[str]:
    lines = []
    if report.nbytes:
        lines.append(
            "on disk  " + ", ".join(f"{use} {size(n)}" for use, n in report.nbytes.items())
        )
    if report.seconds:
        steps = (f"{step} {seconds:.1f} s" for step, seconds in report.seconds.items())
        lines.append("time     " + ", ".join(steps))
    return lines
