"""The report as people read it, for verdicts of every kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_export.forms import Attribution, Flip, Report, RoutingParity, TensorParity
from moe_export.report import figures, text
from moe_export.report.junit import to_junit

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
    made = report(not_run={"CUDA kernels": "there is no GPU"})
    assert ("not run", "CUDA kernels: there is no GPU") in text.summary(made)
    assert "not run\n  CUDA kernels: there is no GPU" in text.tables(made)


def test_weights_beyond_their_tolerance_are_said_to_be_that():
    off = replace(ROUTING, passed=False, weight_error=2e-3, weight_tolerance=1e-5)
    words = "a, example: topk_weights have an error 2.0e-03, the tolerance is 1.0e-05"
    assert words in text.tables(report(routing=(off,)))
    assert b"topk_weights have an error 0.002" in to_junit(report(routing=(off,)))


def test_a_tensor_that_shows_a_wrong_rewrite_is_not_called_beyond_its_tolerance():
    odd = replace(TENSOR, passed=False, eager_error=0.5, rewritten_error=1e-6, tolerance=4.0)
    assert "eager's own error 5.0e-01 and that of the rewritten model, 1.0e-06" in text.tables(
        report(tensors=(odd,))
    )
    assert b"too far apart to be rounding" in to_junit(report(tensors=(odd,)))


def test_what_was_replayed_is_said_beside_what_was_not():
    apart = replace(WRONG, replayed_error=3e-7)
    assert "8.0e-07; 3.0e-07 with the eager model's routing" in text.tables(
        report(tensors=(apart,))
    )


def test_cases_that_differ_first_at_one_place_are_told_together():
    found = Attribution(
        case="example",
        component="model",
        cause="kernel",
        layer="layers.0.moe",
        module="layers.0.moe",
        source="model.py:12",
        words="the op does not compute what the graph says",
    )
    other = replace(found, case="larger")
    elsewhere = replace(found, case="single", cause="lowering", layer="logits", module="")
    made = replace(report(tensors=(WRONG,)), attribution=(found, other, elsewhere))
    lines = text.tables(made).split("\n")
    start = lines.index("first to differ")
    assert lines[start + 1 : start + 6] == [
        "  kernel: layers.0.moe of model, module layers.0.moe (model.py:12)",
        "    in example, larger",
        "    example: the op does not compute what the graph says",
        "  lowering: logits of model, the model itself (model.py:12)",
        "    in single",
    ]
    assert "first to differ" not in text.tables(report())


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
