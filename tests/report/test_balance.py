"""Entropy, peak and dead experts of made-up loads."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_export.forms import ExpertLoad
from moe_export.report.balance import balances, relative

choices = st.lists(st.integers(0, 1000), min_size=1, max_size=64).map(tuple)


def load(*choices: int, layer: str = "a", modality: str = "any") -> ExpertLoad:
    return ExpertLoad(layer=layer, modality=modality, tokens=sum(choices), choices=choices)


def test_an_even_load_has_all_the_entropy_and_no_peak():
    (even,) = balances([load(5, 5, 5, 5)])
    assert (even.entropy, even.peak, even.dead) == (pytest.approx(1.0), 1.0, ())


def test_one_expert_alone_has_no_entropy_and_the_highest_peak():
    (alone,) = balances([load(0, 7, 0, 0)])
    assert (alone.entropy, alone.peak, alone.dead) == (0.0, 4.0, (0, 2, 3))


def test_modalities_of_a_layer_are_added_and_layers_are_not():
    first, second = balances([load(1, 0), load(0, 1, modality="text"), load(0, 3, layer="b")])
    assert (first.choices, first.tokens, first.dead) == ((1, 1), 2, ())
    assert (second.layer, second.dead) == ("b", (0,))


def test_a_layer_that_saw_no_token_has_no_balance():
    (unseen,) = balances([load(0, 0)])
    assert math.isnan(unseen.entropy)
    assert math.isnan(unseen.peak)


@given(choices)
def test_entropy_is_a_part_of_one_and_shares_add_up(counts):
    (made,) = balances([load(*counts)])
    if any(counts):
        assert 0.0 <= made.entropy <= 1.0 + 1e-12
        assert sum(relative(counts)) == pytest.approx(len(counts))
        assert 1.0 - 1e-12 <= made.peak <= len(counts)


@given(choices, st.randoms())
def test_the_order_of_experts_changes_nothing(counts, chance):
    mixed = chance.sample(counts, len(counts))
    (first,), (second,) = balances([load(*counts)]), balances([load(*mixed)])
    if any(counts):
        assert first.entropy == pytest.approx(second.entropy)
        assert first.peak == second.peak
