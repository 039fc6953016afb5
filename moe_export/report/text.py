"""The report for people: the verdict, then what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from moe_export.forms import Flip, Report, RoundingCost, RoutingParity, TensorParity
from moe_export.report.figures import columns, error, plural, share

_KINDS = {"output": "outputs", "layer": "MoE layers", "expert": "every expert"}
# A screen's worth; the JSON has all.
_SHOWN = 10


def verdict(report: Report) -> str:
    """The verdict in one line, without the word for it."""
    golden = report.against == "golden"
    where = "golden tensors" if golden else f"{report.against}, fresh inputs"
    if report.passed:
        return f"the bundle reproduces the eager model ({where})"
    return f"the bundle does not reproduce the eager model ({where}): {failure(report)}"


def failure(report: Report) -> str:
    """How much differs."""
    if not report.tensors:
        return "no tensor could be compared"
    tensors = sum(not tensor.passed for tensor in report.tensors)
    routings = sum(not routing.passed for routing in report.routing)
    return (
        f"{tensors} of {plural(len(report.tensors), 'tensor')} and "
        f"{routings} of {plural(len(report.routing), 'routing')} differ"
    )


def agreement(report: Report) -> float | None:
    """Share of all compared tokens that choose the same experts; ``None`` if none was compared."""
    tokens = sum(routing.tokens for routing in report.routing)
    same = sum(routing.tokens * routing.agreement for routing in report.routing)
    return same / tokens if tokens else None


def worst(tensors: Iterable[TensorParity]) -> TensorParity | None:
    """The tensor that is nearest its tolerance, or furthest beyond it."""
    return max(tensors, key=_used, default=None)


def summary(report: Report) -> list[tuple[str, str]]:
    """The few facts that an export or a validation comes down to, by label."""
    facts = [("routing", _routing_words(report)), ("numbers", _numbers_words(report))]
    if report.rounding is not None:
        facts.append(("rounding", rounding(report.rounding)))
    return facts + [("not run", f"{what}: {why}") for what, why in report.not_run.items()]


def rounding(cost: RoundingCost) -> str:
    """What a precision costs beside the model's own numbers: the worst output, and the routing."""
    name, output = max(cost.outputs.items(), key=lambda item: item[1].relative_error)
    angle = _angle([each.cosine for each in cost.outputs.values()])
    words = f"costs a relative error of at most {error(output.relative_error)} ({name}), "
    words += f"1 - cosine {angle}"
    if not cost.routing:
        return words
    same = share(min(cost.routing.values()))
    return f"{words}; {same} of the tokens choose the same experts where fewest do"


def tables(report: Report) -> str:
    """Tensors by kind, routing by layer, and every comparison that is not as it should be."""
    parts = [_tensor_table(report), _routing_table(report), _failed(report), _flips(report)]
    not_run = [f"  {what}: {why}" for what, why in report.not_run.items()]
    parts.append(["not run", *not_run] if not_run else [])
    return "\n\n".join("\n".join(part) for part in parts if part)


def _routing_words(report: Report) -> str:
    same = agreement(report)
    if same is None:
        return "not run: the model has no MoE layer that was fused"
    tokens = sum(routing.tokens for routing in report.routing)
    layers = len({routing.layer for routing in report.routing})
    return (
        f"{share(same)} of {plural(tokens, 'token')} choose the same experts, "
        f"over {plural(layers, 'MoE layer')}"
    )


def _numbers_words(report: Report) -> str:
    passed = sum(tensor.passed for tensor in report.tensors)
    words = f"{passed} of {plural(len(report.tensors), 'tensor')} within tolerance"
    furthest = max(report.tensors, key=lambda tensor: tensor.relative_error, default=None)
    if furthest is None:
        return words
    return (
        f"{words}; largest relative error {error(furthest.relative_error)} "
        f"({furthest.name}, {furthest.case})"
    )


def _tensor_table(report: Report) -> list[str]:
    if not report.tensors:
        return []
    head = ("tensors", "within", "worst error", "eager's own", "tolerance", "1 - cosine", "nearest")
    rows = [head]
    for kind, words in _KINDS.items():
        tensors = [tensor for tensor in report.tensors if tensor.kind == kind]
        near = worst(tensors)
        if near is not None:
            rows.append(
                (
                    words,
                    f"{sum(tensor.passed for tensor in tensors)}/{len(tensors)}",
                    error(near.max_error),
                    error(near.eager_error),
                    error(near.tolerance),
                    _angle([tensor.cosine for tensor in tensors]),
                    f"{near.name}, {near.case}",
                )
            )
    aligned = columns([row[:-1] for row in rows], indent="")
    return [f"{line}  {row[-1]}" for line, row in zip(aligned, rows, strict=True)]


def _routing_table(report: Report) -> list[str]:
    if not report.routing:
        return []
    rows = [("routing", "tokens", "agreement", "flips", "unexplained")]
    for layer in dict.fromkeys(routing.layer for routing in report.routing):
        cases = [routing for routing in report.routing if routing.layer == layer]
        flips = [flip for routing in cases for flip in routing.flips]
        tokens = sum(routing.tokens for routing in cases)
        same = sum(routing.tokens * routing.agreement for routing in cases)
        rows.append(
            (
                layer or "the model",
                str(tokens),
                share(same / tokens) if tokens else "no token",
                str(len(flips)),
                str(sum(not flip.explained for flip in flips)),
            )
        )
    return columns(rows, indent="")


def _failed(report: Report) -> list[str]:
    failed = sorted((t for t in report.tensors if not t.passed), key=_used, reverse=True)
    lines = [
        f"  {tensor.name}, {tensor.case}: error {error(tensor.max_error)}, "
        f"{_used(tensor):.3g} times the tolerance {error(tensor.tolerance)}"
        for tensor in failed[:_SHOWN]
    ]
    lines += [
        f"  {routing.layer or 'the model'}, {routing.case}: topk_ids has another shape"
        for routing in report.routing
        if not routing.passed and not routing.flips
    ]
    return ["beyond tolerance", *lines, *_more(failed)] if lines else []


def _flips(report: Report) -> list[str]:
    flips = _each_flip(report.routing)
    lines = [
        f"  {routing.layer or 'the model'}, {routing.case}, token {flip.token}: "
        f"eager {_ids(flip.eager)}, bundle {_ids(flip.bundle)}, margin {error(flip.margin)}, "
        f"noise {error(flip.noise)}: "
        + ("explained by rounding" if flip.explained else "not explained by rounding")
        for routing, flip in flips[:_SHOWN]
    ]
    return ["routing flips", *lines, *_more(flips)] if flips else []


def _each_flip(routings: Iterable[RoutingParity]) -> list[tuple[RoutingParity, Flip]]:
    """The unexplained first."""
    flips = [(routing, flip) for routing in routings for flip in routing.flips]
    return sorted(flips, key=lambda pair: pair[1].explained)


def _used(tensor: TensorParity) -> float:
    """The error in tolerances; a tensor of zeros has a tolerance of zero."""
    if tensor.tolerance:
        return tensor.max_error / tensor.tolerance
    return float("inf") if tensor.max_error else 0.0


def _angle(cosines: Sequence[float]) -> str:
    """How far the furthest of them is from one; rounded decimals would hide it."""
    if any(math.isnan(cosine) for cosine in cosines):
        return "none"
    return error(max(0.0, 1.0 - min(cosines)))


def _ids(ids: tuple[int, ...]) -> str:
    return ",".join(map(str, ids))


def _more(items: Sequence[object]) -> list[str]:
    return [f"  and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
