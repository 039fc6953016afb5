"""What a CI reads: a test for each comparison, with the reason where it failed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from moe_export.report.junit import to_junit


def suite(report):
    return ElementTree.fromstring(to_junit(report))  # noqa: S314 - written just now


@pytest.mark.parametrize("name", ["passed", "failed"])
def test_counts_are_those_of_the_cases(request, name):
    report = request.getfixturevalue(name)
    made = suite(report)
    cases = made.findall("testcase")
    assert int(made.get("tests")) == len(cases)
    assert int(made.get("failures")) == len(made.findall("testcase/failure"))
    assert int(made.get("skipped")) == len(made.findall("testcase/skipped")) == len(report.not_run)
    assert len(cases) == sum(
        map(len, (report.tensors, report.routing, report.generation, report.not_run))
    )
    assert bool(made.findall("testcase/failure")) is not report.passed


def test_a_continuation_that_rounding_does_not_explain_is_a_failure_with_both_guesses(failed):
    (case,) = [
        case
        for case in suite(failed).findall("testcase[@name='continuation']")
        if case.find("failure") is not None
    ]
    (parted,) = [each for each in failed.generation if not each.explained]
    assert case.get("classname") == f"parity.{parted.case}"
    said = case.find("failure").text
    for candidate in (*parted.eager, *parted.bundle):
        assert f"{candidate.token} {candidate.text!r} {candidate.probability:.4f}" in said


def test_every_failure_of_an_attributed_case_says_what_did_it(failed):
    (found,) = failed.attribution
    for case in suite(failed).findall(f"testcase[@classname='parity.{found.case}']"):
        failure = case.find("failure")
        if failure is not None:
            assert found.words in failure.text
            assert found.source in failure.text
    assert found.words in suite(failed).find(
        "properties/property[@name='attribution of example']"
    ).get("value")


def test_an_explained_flip_is_told_where_the_routing_passed(failed):
    routing = next(each for each in failed.routing if each.flips)
    explained = replace(routing.flips[0], explained=True)
    calm = replace(failed, routing=(replace(routing, flips=(explained,), passed=True),))
    (case,) = suite(calm).findall(f"testcase[@name='routing {routing.layer}']")
    assert case.find("failure") is None
    assert f"token {explained.token}: eager" in case.find("system-out").text


def test_weights_beyond_their_tolerance_are_named(passed):
    wrong = replace(passed.routing[0], weight_error=2.0, weight_tolerance=1.0, passed=False)
    made = suite(replace(passed, routing=(wrong,)))
    (failure,) = made.findall("testcase/failure")
    assert failure.get("message") == ("topk_weights have an error 2, which exceeds the tolerance 1")


def test_letters_that_xml_has_no_way_to_say_leave_it_readable(failed):
    odd = replace(
        failed.generation[1], bundle=(replace(failed.generation[1].bundle[0], text="\x00\x1b"),)
    )
    made = suite(replace(failed, generation=(odd,)))
    assert "x00" in made.find("testcase[@name='continuation']/failure").text
