"""The report as people read it, for verdicts of every kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_export.forms import Flip, Report, RoutingParity, TensorParity
from moe_export.report import figures, text

TENSOR = TensorParity(
    case="example",
    name="logits",
    kind="output",
    elements=10,
    max_error=2e-7,
    relative_error=1e-7,
    cosine=1.0,
    eager_error=1e-7,
    tolerance=8e-7,
    passed=True,
)
WRONG = replace(TENSOR, name="a/y", kind="layer", max_error=4e-6, passed=False)
ROUTING = RoutingParity(case="example", layer="a", tokens=4, agreement=1.0, flips=(), passed=True)
FLIP = Flip(token=3, eager=(0, 1), bundle=(0, 2), margin=1e-8, noise=1e-7, explained=True)
FLIPPED = replace(ROUTING, agreement=0.75, flips=(FLIP,))


def report(*, tensors=(TENSOR,), routing=(ROUTING,), not_run=None):
    return Report(
        source="model.pt",
        target="standard",
        against="golden",
        tensors=tensors,
        routing=routing,
        not_run=not_run or {},
    )


def test_a_failed_verdict_counts_what_differs():
    words = text.verdict(report(tensors=(TENSOR, WRONG)))
    assert "does not reproduce" in words
    assert "1 of 2 tensors and 0 of 1 routing differ" in words


def test_a_report_without_tensors_does_not_pass():
    assert text.verdict(report(tensors=())).endswith("no tensor could be compared")


def test_a_tensor_beyond_its_tolerance_is_listed_with_how_far():
    assert "a/y, example: error 4.0e-06, 5 times the tolerance 8.0e-07" in text.tables(
        report(tensors=(TENSOR, WRONG))
    )
    assert "beyond tolerance" not in text.tables(report())


def test_agreement_weighs_layers_by_their_tokens():
    busy = replace(ROUTING, layer="b", tokens=12)
    assert text.agreement(report(routing=(FLIPPED, busy))) == pytest.approx(15 / 16)
    assert text.agreement(report(routing=())) is None


def test_a_model_without_moe_layers_has_its_routing_reported_as_not_run():
    facts = dict(text.summary(report(routing=())))
    assert facts["routing"].startswith("not run")


def test_a_flip_is_shown_with_its_margin_and_whether_rounding_explains_it():
    lines = text.tables(report(routing=(FLIPPED,)))
    assert "a, example, token 3: eager 0,1, bundle 0,2, margin 1.0e-08" in lines
    assert "explained by rounding" in lines
    worse = replace(FLIPPED, flips=(replace(FLIP, explained=False),), passed=False)
    assert "not explained by rounding" in text.tables(report(routing=(worse,)))


def test_unexplained_flips_come_first_and_the_rest_is_counted():
    many = tuple(replace(FLIP, token=token) for token in range(20))
    bad = replace(FLIP, token=77, explained=False)
    lines = text.tables(report(routing=(replace(FLIPPED, flips=(*many, bad)),))).splitlines()
    start = lines.index("routing flips")
    assert "token 77" in lines[start + 1]
    assert lines[-1] == "  and 11 more"


def test_routing_of_another_shape_is_said_to_be_that():
    broken = replace(ROUTING, agreement=0.0, passed=False)
    assert "a, example: topk_ids has another shape" in text.tables(report(routing=(broken,)))


def test_what_was_not_run_is_said_to_be_not_run():
    made = report(not_run={"tensors of case 'x'": "explained flips: a, token 3"})
    assert ("not run", "tensors of case 'x': explained flips: a, token 3") in text.summary(made)
    assert "not run\n  tensors of case 'x'" in text.tables(made)


def test_the_nearest_tensor_is_the_one_with_the_least_room():
    wide = replace(TENSOR, name="wide", max_error=1.0, tolerance=1e3)
    assert text.worst((TENSOR, wide)) == TENSOR
    zero = replace(TENSOR, name="zero", max_error=1e-30, tolerance=0.0, passed=False)
    assert text.worst((TENSOR, zero)) == zero


@pytest.mark.parametrize("cosine", [float("nan"), 1.0 - 1e-9, 1.0 + 1e-16])
def test_a_cosine_near_one_is_not_rounded_to_one(cosine):
    line = text.tables(report(tensors=(replace(TENSOR, cosine=cosine),))).splitlines()[1]
    expected = "none" if cosine != cosine else "1.0e-09" if cosine < 1 else "  0  "
    assert expected in line


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (2_328_576, "2.22 MiB"), (5 * 2**40, "5 TiB")],
)
def test_sizes_are_binary(number, words):
    assert figures.size(number) == words


@pytest.mark.parametrize(
    ("part", "words"), [(1.0, "100 %"), (0.99999, "99.99 %"), (0.5, "50.00 %"), (0.0, "0.00 %")]
)
def test_only_the_whole_is_a_hundred_per_cent(part, words):
    assert figures.share(part) == words
