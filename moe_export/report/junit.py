"""The report as JUnit XML: one test case for each comparison, for any CI to show.

A comparison that failed says in its text which attribution its case has; flips that rounding
explains stand in ``system-out`` of a routing that passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from moe_export.forms import (
    Attribution,
    Candidate,
    Flip,
    Generation,
    Report,
    RoutingParity,
    TensorParity,
)
from moe_export.report.figures import plural, printable
from moe_export.report.text import agreement


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison by name: what CI shows as one test."""

    case: str
    name: str
    failure: str | None = None
    """What is wrong, in one line; ``None`` where nothing is."""

    skipped: str | None = None
    """Why it was not run."""

    details: tuple[str, ...] = ()
    """Lines behind the verdict."""


def checks(report: Report) -> Iterator[Check]:
    """Every comparison: tensors, routing, continuations, and what was not run."""
    found = {each.case: attribution_words(each) for each in report.attribution}
    for tensor in report.tensors:
        yield Check(
            case=tensor.case,
            name=f"{tensor.kind} {tensor.name}",
            failure=_wrong_tensor(tensor),
            details=_found(found, tensor.case, passed=tensor.passed),
        )
    for routing in report.routing:
        yield Check(
            case=routing.case,
            name=f"routing {routing.layer}",
            failure=_wrong_routing(routing),
            details=(
                *map(_flip_words, routing.flips),
                *_found(found, routing.case, passed=routing.passed),
            ),
        )
    for generation in report.generation:
        yield Check(
            case=generation.case,
            name="continuation",
            failure=_wrong_generation(generation),
            details=(
                *_candidates("eager model", generation.eager),
                *_candidates("bundle", generation.bundle),
                *_found(found, generation.case, passed=generation.explained),
            ),
        )
    for name, reason in report.not_run.items():
        yield Check(case="not run", name=name, skipped=reason)


def to_junit(report: Report) -> bytes:
    """A ``testsuite``: a failure for each comparison that failed, a skip for what did not run."""
    listed = list(checks(report))
    suite = ElementTree.Element(
        "testsuite",
        name=f"parity of {report.source} ({report.target}) against {report.against}",
        tests=str(len(listed)),
        failures=str(sum(check.failure is not None for check in listed)),
        skipped=str(sum(check.skipped is not None for check in listed)),
        errors="0",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report):
        ElementTree.SubElement(properties, "property", name=name, value=printable(value))
    for check in listed:
        _test(suite, check)
    ElementTree.indent(suite)
    content: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def attribution_words(each: Attribution) -> str:
    """Where a case left its envelope first, and what did it, in a line."""
    where = f" ({each.source})" if each.source else ""
    layer = each.layer or "the model"
    return f"first beyond: {layer} of {each.component}, cause {each.cause}{where}. {each.words}"


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "precision", report.precision
    same = agreement(report)
    if same is not None:
        yield "routing agreement", f"{same:.6f}"
    for each in report.attribution:
        yield f"attribution of {each.case}", attribution_words(each)


def _test(suite: ElementTree.Element, check: Check) -> None:
    test = ElementTree.SubElement(
        suite, "testcase", classname=printable(f"parity.{check.case}"), name=printable(check.name)
    )
    details = printable("\n".join(check.details))
    if check.failure is not None:
        failure = ElementTree.SubElement(test, "failure", message=check.failure)
        failure.text = details or None
    elif check.skipped is not None:
        ElementTree.SubElement(test, "skipped", message=printable(check.skipped))
    elif details:
        ElementTree.SubElement(test, "system-out").text = details


def _found(found: Mapping[str, str], case: str, *, passed: bool) -> tuple[str, ...]:
    return () if passed or case not in found else (found[case],)


def _wrong_tensor(tensor: TensorParity) -> str | None:
    if tensor.passed:
        return None
    if tensor.rewritten_error is not None and tensor.max_error <= tensor.tolerance:
        return (
            f"eager's own error {tensor.eager_error:.3g} and that of the rewritten model, "
            f"{tensor.rewritten_error:.3g}, are too far apart to be rounding"
        )
    return (
        f"error {tensor.max_error:.3g} exceeds the tolerance {tensor.tolerance:.3g} "
        f"(eager's own error is {tensor.eager_error:.3g})"
    )


def _wrong_routing(routing: RoutingParity) -> str | None:
    if routing.passed:
        return None
    unexplained = [flip for flip in routing.flips if not flip.explained]
    if not unexplained and routing.weight_error > routing.weight_tolerance:
        return (
            f"topk_weights have an error {routing.weight_error:.3g}, which exceeds the tolerance "
            f"{routing.weight_tolerance:.3g}"
        )
    if not routing.flips:
        return "topk_ids has another shape"
    return (
        f"{len(unexplained)} of {routing.tokens} tokens choose other experts although rounding "
        "cannot explain it"
    )


def _wrong_generation(generation: Generation) -> str | None:
    if generation.explained:
        return None
    return (
        f"{generation.agreed} of {plural(generation.steps, 'token')} are the same, and rounding "
        "does not explain the next"
    )


def _flip_words(flip: Flip) -> str:
    why = "explained by rounding" if flip.explained else "not explained by rounding"
    return (
        f"token {flip.token}: eager {_ids(flip.eager)}, bundle {_ids(flip.bundle)}, "
        f"margin {flip.margin:.3g}, noise {flip.noise:.3g}: {why}"
    )


def _ids(ids: tuple[int, ...]) -> str:
    return ",".join(map(str, ids))


def _candidates(who: str, candidates: tuple[Candidate, ...]) -> Iterator[str]:
    if candidates:
        listed = ", ".join(
            f"{each.token}{'' if each.text is None else f' {each.text!r}'} {each.probability:.4f}"
            for each in candidates
        )
        yield f"likeliest of the {who}: {listed}"
