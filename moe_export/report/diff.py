"""Two reports side by side: what one bundle gives up or gains against another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moe_export.errors import UsageError
from moe_export.forms import ExpertLoad, Report, RoundingCost, RoutingParity, TensorParity
from moe_export.report.balance import total
from moe_export.report.text import agreement


@dataclass(frozen=True, kw_only=True)
class Side:
    """One report in a few facts."""

    name: str
    source: str
    target: str
    precision: str
    passed: bool
    tensors: int
    failed: int
    agreement: float | None
    """Share of tokens with the experts of their own eager model; ``None``: none was compared."""

    flips: int
    rounding: RoundingCost | None
    """What the precision costs beside the model's own numbers."""


@dataclass(frozen=True, kw_only=True)
class TensorDiff:
    """Tensors of one name in both, the worst case of each."""

    name: str
    kind: str
    cases: int
    """That both have."""

    a: float
    """Relative error against the float64 reference of its own numbers."""

    b: float


@dataclass(frozen=True, kw_only=True)
class RoutingDiff:
    """One MoE layer in both, over the cases that both have."""

    layer: str
    tokens: int
    a: float
    """Share of tokens with the experts of its own eager model."""

    b: float
    flips_a: int
    flips_b: int
    moved: float | None
    """The part of all choices that falls on other experts in B than in A, at least: half the sum of
    differences of the experts' shares.  ``None`` where a load is not recorded."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Bytes or seconds of both; ``None`` where one does not know it."""

    a: float | None
    b: float | None


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What two reports have in common, and what only one of them has."""

    a: Side
    b: Side
    tensors: tuple[TensorDiff, ...]
    routing: tuple[RoutingDiff, ...]
    nbytes: Mapping[str, Amount]
    seconds: Mapping[str, Amount]
    only_a: tuple[str, ...]
    """Tensors, by name."""

    only_b: tuple[str, ...]


def diff(a: Report, b: Report, *, names: tuple[str, str] = ("A", "B")) -> Diff:
    """Compare two reports by the names of tensors, layers and cases.

    Each error is against the reference of its own model, which for a rounded bundle is the rounded
    one; what rounding costs beside the model's own numbers is in ``Side.rounding``.  Raises
    ``UsageError`` where the two have no tensor in common: then they are of different models.
    """
    in_a, in_b = _by_name(a.tensors), _by_name(b.tensors)
    shared = [name for name in in_a if name in in_b]
    if not shared:
        raise UsageError(
            "the reports have no tensor in common",
            where=" and ".join(names),
            hint=f"one is of {a.source}, the other of {b.source}",
        )
    return Diff(
        a=_side(a, names[0]),
        b=_side(b, names[1]),
        tensors=tuple(
            made for name in shared if (made := _tensor(name, in_a[name], in_b[name])) is not None
        ),
        routing=tuple(_routing(a, b)),
        nbytes=_amounts(a.nbytes, b.nbytes),
        seconds=_amounts(a.seconds, b.seconds),
        only_a=tuple(name for name in in_a if name not in in_b),
        only_b=tuple(name for name in in_b if name not in in_a),
    )


def _side(report: Report, name: str) -> Side:
    return Side(
        name=name,
        source=report.source,
        target=report.target,
        precision=report.precision,
        passed=report.passed,
        tensors=len(report.tensors),
        failed=sum(not tensor.passed for tensor in report.tensors),
        agreement=agreement(report),
        flips=sum(len(each.flips) for each in report.routing),
        rounding=report.rounding,
    )


def _by_name(tensors: Iterable[TensorParity]) -> dict[str, dict[str, TensorParity]]:
    """By name and case."""
    by_name: dict[str, dict[str, TensorParity]] = {}
    for tensor in tensors:
        by_name.setdefault(tensor.name, {})[tensor.case] = tensor
    return by_name


def _tensor(
    name: str, a: Mapping[str, TensorParity], b: Mapping[str, TensorParity]
) -> TensorDiff | None:
    cases = [case for case in a if case in b]
    if not cases:
        return None
    return TensorDiff(
        name=name,
        kind=a[cases[0]].kind,
        cases=len(cases),
        a=max(a[case].relative_error for case in cases),
        b=max(b[case].relative_error for case in cases),
    )


def _routing(a: Report, b: Report) -> Iterable[RoutingDiff]:
    in_a, in_b = ({(r.layer, r.case): r for r in report.routing} for report in (a, b))
    shared = [key for key in in_a if key in in_b]
    for layer in dict.fromkeys(layer for layer, _ in shared):
        ours = [in_a[key] for key in shared if key[0] == layer]
        theirs = [in_b[key] for key in shared if key[0] == layer]
        yield RoutingDiff(
            layer=layer,
            tokens=sum(each.tokens for each in ours),
            a=_same(ours),
            b=_same(theirs),
            flips_a=sum(len(each.flips) for each in ours),
            flips_b=sum(len(each.flips) for each in theirs),
            moved=_moved(_of(a.loads, layer), _of(b.loads, layer)),
        )


def _same(routings: Sequence[RoutingParity]) -> float:
    tokens = sum(each.tokens for each in routings)
    return sum(each.tokens * each.agreement for each in routings) / tokens if tokens else 1.0


def _of(loads: Iterable[ExpertLoad], layer: str) -> tuple[int, ...]:
    return total(load for load in loads if load.layer == layer)


def _moved(a: Sequence[int], b: Sequence[int]) -> float | None:
    if len(a) != len(b) or not any(a) or not any(b):
        return None
    whole_a, whole_b = sum(a), sum(b)
    return sum(abs(x / whole_a - y / whole_b) for x, y in zip(a, b, strict=True)) / 2


def _amounts(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Amount]:
    return {name: Amount(a=a.get(name), b=b.get(name)) for name in dict.fromkeys((*a, *b))}
