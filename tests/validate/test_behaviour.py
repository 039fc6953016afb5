"""What a report tells beside its verdict: whom routers chose, what comes next, what was said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_export.forms import (
    IMAGE,
    PADDING,
    TEXT,
    Asked,
    BlockRecord,
    Continuation,
    GoldenCase,
    LayerTensors,
)
from moe_export.moe.layer import ExpertsSpec, LayerSpec, RouterSpec
from moe_export.validate.generation import Rounding, explained
from moe_export.validate.loads import NEAR_SHARE, Loads
from moe_export.validate.logits import compare_logits
from validate.test_tolerances import layer

EXPERTS = 4


def block(path: str = "moe") -> BlockRecord:
    spec = LayerSpec(
        router=RouterSpec(num_experts=EXPERTS, top_k=2),
        experts=ExpertsSpec(num_experts=EXPERTS, hidden_size=4, intermediate_size=4, output_size=4),
    )
    return BlockRecord(path=path, kind="MoE", status="proven", found_by="structure", layer=spec)


def recorded(
    codes: list[int], margins: list[float], rivals: list[tuple[int, int]] | None = None
) -> LayerTensors:
    pairs = np.array(rivals or [(0, 1)] * len(margins), np.int32)
    return replace(layer(margins, 0.0), modality=np.array(codes, np.uint8), rivals=pairs)


def test_choices_are_counted_by_modality_over_all_cases_and_padding_nowhere() -> None:
    loads = Loads((block(),))
    ids = np.array([[0, 1], [0, 3], [3, 3], [2, 2]], np.int32)
    loads.add("moe", recorded([TEXT, IMAGE, IMAGE, PADDING], [1.0] * 4), ids, 0.0)
    loads.add("moe", recorded([TEXT], [1.0]), np.array([[1, 2]], np.int32), 0.0)
    made = {load.modality: load for load in loads.loads()}
    assert made.keys() == {"text", "image"}
    assert (made["text"].tokens, made["text"].choices) == (2, (1, 2, 1, 0))
    assert (made["image"].tokens, made["image"].choices) == (2, (1, 0, 0, 3))


def test_tokens_that_nobody_knows_are_counted_as_any() -> None:
    loads = Loads((block(),))
    loads.add("moe", layer([1.0, 1.0], 0.0), np.array([[0, 1], [0, 1]], np.int32), 0.0)
    (load,) = loads.loads()
    assert (load.modality, load.tokens, load.choices) == ("any", 2, (2, 2, 0, 0))


@given(st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=30))
def test_no_choice_is_lost(chosen: list[int]) -> None:
    loads = Loads((block(),))
    tokens = len(chosen)
    codes = [(TEXT, IMAGE)[place % 2] for place in range(tokens)]
    ids = np.array(chosen, np.int32)[:, None]
    loads.add("moe", recorded(codes, [1.0] * tokens), ids, 0.0)
    assert sum(sum(load.choices) for load in loads.loads()) == tokens
    assert sum(load.tokens for load in loads.loads()) == tokens


def test_a_margin_among_the_smallest_tenth_is_small_and_no_other() -> None:
    margins = [0.5 + 0.01 * n for n in range(20)]
    margins[7], margins[3] = 0.01, 0.02
    rivals = [(0, 1)] * 20
    rivals[7], rivals[3] = (2, 3), (3, 2)
    loads = Loads((block(),))
    loads.add("moe", recorded([TEXT] * 20, margins, rivals), np.zeros((20, 2), np.int32), 0.0)
    made = [(c.chosen, c.runner_up, c.tokens, c.smallest_margin) for c in loads.conflicts()]
    assert NEAR_SHARE == 0.1
    assert made == [(2, 3, 1, 0.01), (3, 2, 1, 0.02)]


def test_what_rounding_may_flip_is_small_however_many_there_are() -> None:
    loads = Loads((block(),))
    margins = [0.1 + 0.01 * n for n in range(8)] + [1.0] * 2
    loads.add("moe", recorded([TEXT] * 10, margins), np.zeros((10, 2), np.int32), noise=0.2)
    (conflict,) = loads.conflicts()
    assert conflict.tokens == 8


def test_a_token_with_no_other_choice_and_padding_are_in_no_conflict() -> None:
    loads = Loads((block(),))
    # The second's nearest other choice is of another group, which is no pair of experts.
    made = recorded([TEXT, TEXT, PADDING], [np.inf, 0.1, 0.0], [(1, 2), (1, -1), (0, 1)])
    loads.add("moe", made, np.zeros((3, 2), np.int32), 1.0)
    assert loads.conflicts() == ()


def case(logits: np.ndarray, codes: np.ndarray, **inputs: np.ndarray) -> GoldenCase:
    return GoldenCase(
        name="c",
        inputs=inputs,
        outputs={"logits": logits},
        outputs_reference={},
        outputs_edge_error={},
        layers={},
        modality=codes,
    )


def test_divergence_is_what_the_definition_says_by_modality() -> None:
    eager = np.log(np.array([[[0.5, 0.25, 0.25], [0.5, 0.5, 0.0 + 1e-30]]], np.float64))
    made = np.log(np.array([[[0.25, 0.5, 0.25], [0.5, 0.5, 1e-30]]], np.float64)) + 7.0
    codes = np.array([[IMAGE, TEXT]], np.uint8)
    parts = {p.modality: p for p in compare_logits(case(eager, codes), "logits", None, made)}
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    assert parts["image"].mean_divergence == pytest.approx(expected)
    assert (parts["image"].same_top1, parts["text"].same_top1) == (0.0, 1.0)
    assert parts["text"].largest_divergence == pytest.approx(0.0, abs=1e-12)


def test_the_logits_of_the_last_token_are_of_what_that_token_is() -> None:
    logits = np.zeros((2, 1, 3))
    codes = np.array([[TEXT, IMAGE], [TEXT, PADDING]], np.uint8)
    (part,) = compare_logits(case(logits, codes), "logits", None, logits)
    assert (part.modality, part.positions) == ("image", 1)


def test_logits_of_a_text_input_s_positions_are_of_text_and_others_of_nobody_knows_what() -> None:
    logits, nothing = np.zeros((1, 4, 3)), np.zeros((0, 0), np.uint8)
    for length, modality in ((4, "text"), (5, "any")):
        given_ = case(logits, nothing, tokens=np.zeros((1, length), np.int64))
        (part,) = compare_logits(given_, "logits", "tokens", logits)
        assert (part.modality, part.positions) == (modality, 4)


def test_what_eager_rules_out_adds_nothing() -> None:
    eager = np.array([[[0.0, -np.inf]]])
    made = np.array([[[0.0, -50.0]]])
    (part,) = compare_logits(case(eager, np.zeros((0, 0), np.uint8)), "logits", None, made)
    assert part.mean_divergence == pytest.approx(0.0, abs=1e-12)


def said(gap: float, margin: float = 1.0) -> Continuation:
    """Two steps; in the second the likeliest two are ``gap`` apart, and all others far."""
    logs = np.array([[-0.1, -5.0, -9.0], [-0.5, -0.5 - gap, -9.0]])
    return Continuation(
        name="text",
        asked=Asked(
            ids=np.ones((1, 1), np.int64),
            positions=np.zeros((1, 1), np.int64),
            modality=np.ones((1, 1), np.uint8),
        ),
        likeliest=np.array([[3, 4, 5], [6, 7, 8]]),
        log_probabilities=logs,
        margins={"moe": np.array([1.0, margin])},
    )


@given(st.floats(1e-6, 1.0), st.floats(0.0, 4.0))
def test_another_token_is_explained_where_two_logits_may_move_past_each_other(
    logit: float, factor: float
) -> None:
    made = explained(said(gap=factor * logit), 1, 7, Rounding(logit, {}))
    if factor < 2 * (1 - 1e-6):
        assert made
    if factor > 2 * (1 + 1e-6) + 1e-9 / logit:
        assert not made


def test_a_token_that_is_none_of_the_likeliest_is_not_explained_by_logits() -> None:
    assert not explained(said(gap=0.0), 1, 99, Rounding(1.0, {}))


def test_a_routing_that_may_have_flipped_explains_what_follows_and_not_what_came_before() -> None:
    rounding = Rounding(0.0, {"moe": 1e-3})
    assert explained(said(gap=4.0, margin=1e-4), 1, 99, rounding)
    assert not explained(said(gap=4.0, margin=1e-4), 0, 99, rounding)
    assert not explained(said(gap=4.0, margin=1e-2), 1, 99, rounding)
