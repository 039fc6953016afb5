"""Two reports side by side for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from moe_export.forms import RoundingCost
from moe_export.report.diff import Amount, Diff, Side
from moe_export.report.figures import columns, error, plural, share, size

# A screen's worth; the JSON has all.
_SHOWN = 12


def tables(diff: Diff) -> str:
    """The two in a few facts, then routing, numbers, sizes and times."""
    parts = [
        _sides(diff),
        _rounding(diff),
        _routing(diff),
        _tensors(diff),
        _amounts("size", diff.nbytes, size),
        _amounts("time", diff.seconds, lambda seconds: f"{seconds:.3g} s"),
        _alone(diff),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _sides(diff: Diff) -> list[str]:
    def row(label: str, words: Callable[[Side], str]) -> tuple[str, str, str]:
        return label, words(diff.a), words(diff.b)

    rows = [
        ("", "A", "B"),
        row("source", lambda side: side.source),
        row("target", lambda side: side.target),
        row("experts", lambda side: side.precision),
        row("verdict", lambda side: "passed" if side.passed else "failed"),
        row("within tolerance", lambda side: f"{side.tensors - side.failed}/{side.tensors}"),
        row("same experts", lambda s: "not run" if s.agreement is None else share(s.agreement)),
        row("flips", lambda side: str(side.flips)),
    ]
    names = [f"{letter}  {side.name}" for letter, side in (("A", diff.a), ("B", diff.b))]
    return [*names, "", *columns(rows, indent="")]


def _rounding(diff: Diff) -> list[str]:
    """What the precisions cost beside the model's own numbers, which ``f32`` keeps."""
    costs = [side.rounding for side in (diff.a, diff.b)]
    if costs == [None, None]:
        return []
    rows: list[tuple[str, ...]] = [("price of rounding", "A", "B")]
    for name in _named(cost.outputs for cost in costs if cost is not None):
        rows.append((f"error of {name}", *(_error_of(name, cost) for cost in costs)))
    for layer in _named(cost.routing for cost in costs if cost is not None):
        same = (_same_in(layer, cost) for cost in costs)
        rows.append((f"same experts in {layer or 'the model'}", *same))
    return columns(rows, indent="")


def _named(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _error_of(output: str, cost: RoundingCost | None) -> str:
    if cost is None:
        return "none"
    return error(cost.outputs[output].relative_error) if output in cost.outputs else "unknown"


def _same_in(layer: str, cost: RoundingCost | None) -> str:
    if cost is None:
        return "100 %"
    return share(cost.routing[layer]) if layer in cost.routing else "unknown"


def _routing(diff: Diff) -> list[str]:
    if not diff.routing:
        return []
    rows = [("routing", "tokens", "same in A", "same in B", "flips in A", "flips in B", "moved")]
    rows += [
        (
            each.layer or "the model",
            str(each.tokens),
            share(each.a),
            share(each.b),
            str(each.flips_a),
            str(each.flips_b),
            "unknown" if each.moved is None else share(each.moved),
        )
        for each in diff.routing
    ]
    return columns(rows, indent="")


def _tensors(diff: Diff) -> list[str]:
    """Those whose errors are furthest apart first."""
    rows = [("relative error", "A", "B", "B / A")]
    apart = sorted(diff.tensors, key=lambda each: abs(each.b - each.a), reverse=True)
    rows += [
        (each.name, error(each.a), error(each.b), _ratio(each.a, each.b)) for each in apart[:_SHOWN]
    ]
    more = [f"  and {len(apart) - _SHOWN} more"] if len(apart) > _SHOWN else []
    return columns(rows, indent="") + more


def _amounts(title: str, amounts: Mapping[str, Amount], words: Callable[[float], str]) -> list[str]:
    if not amounts:
        return []
    rows = [(title, "A", "B", "B / A")]
    both = {
        name: each for name, each in amounts.items() if each.a is not None and each.b is not None
    }
    listed = dict(amounts)
    if len(both) > 1 and len(both) == len(amounts):
        listed["all"] = Amount(
            a=sum(each.a or 0.0 for each in both.values()),
            b=sum(each.b or 0.0 for each in both.values()),
        )
    rows += [
        (
            name,
            "none" if each.a is None else words(each.a),
            "none" if each.b is None else words(each.b),
            "" if each.a is None or each.b is None else _ratio(each.a, each.b),
        )
        for name, each in listed.items()
    ]
    return columns(rows, indent="")


def _alone(diff: Diff) -> list[str]:
    return [
        f"only in {side}: {plural(len(names), 'tensor')}, {names[0]} among them"
        for side, names in (("A", diff.only_a), ("B", diff.only_b))
        if names
    ]


def _ratio(a: float, b: float) -> str:
    return f"{b / a:.3g}" if a else "1" if not b else "-"
