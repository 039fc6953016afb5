"""The report as JUnit XML: one test case for each comparison, for any CI to show."""

from __future__ import annotations

from xml.etree import ElementTree

from moe_export.forms import Generation, Report, RoutingParity, TensorParity


def to_junit(report: Report) -> bytes:
    """A ``testsuite``: a failure for each comparison that failed, a skip for what did not run."""
    failures = sum(not tensor.passed for tensor in report.tensors)
    failures += sum(not routing.passed for routing in report.routing)
    failures += sum(not said.explained for said in report.generation)
    compared = (*report.tensors, *report.routing, *report.generation)
    total = len(compared) + len(report.not_run)
    suite = ElementTree.Element(
        "testsuite",
        name=f"parity of {report.source} ({report.target}) against {report.against}",
        tests=str(total),
        failures=str(failures),
        skipped=str(len(report.not_run)),
        errors="0",
    )
    for tensor in report.tensors:
        _test(suite, f"{tensor.kind} {tensor.name}", tensor.case, _wrong_tensor(tensor))
    for routing in report.routing:
        _test(suite, f"routing {routing.layer}", routing.case, _wrong_routing(routing))
    for said in report.generation:
        _test(suite, "continuation", said.case, _wrong_generation(said))
    for name, reason in report.not_run.items():
        ElementTree.SubElement(_test(suite, name, "not run", None), "skipped", message=reason)
    ElementTree.indent(suite)
    content: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _test(
    suite: ElementTree.Element, name: str, case: str, failure: str | None
) -> ElementTree.Element:
    test = ElementTree.SubElement(suite, "testcase", classname=f"parity.{case}", name=name)
    if failure is not None:
        ElementTree.SubElement(test, "failure", message=failure)
    return test


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
    return (
        f"{len(unexplained)} of {routing.tokens} tokens choose other experts although rounding "
        "cannot explain it"
    )


def _wrong_generation(said: Generation) -> str | None:
    if said.explained:
        return None
    return f"rounding cannot explain token {said.agreed + 1} of {said.steps}, which is another one"
