"""Tolerances are earned: eager's own error sets them, and NaN, shapes and flips cannot hide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_export.forms import LayerTensors
from moe_export.validate.routing import compare_routing
from moe_export.validate.tensors import EAGER_FACTOR, EDGE_FACTOR, compare

EPS = float(np.finfo(np.float32).eps)


def parity(
    bundle: np.ndarray, eager: np.ndarray, reference: np.ndarray, edge_error: float = 0.0
) -> bool:
    return compare(
        "c",
        "t",
        "output",
        bundle=bundle,
        eager=eager,
        reference=reference,
        edge_error=edge_error,
    ).passed


REFERENCE = np.linspace(-2.0, 2.0, 9)


@given(st.floats(1e-9, 1e-3), st.floats(0.0, 20.0))
def test_a_bundle_may_be_a_stated_factor_as_wrong_as_eager_and_no_more(
    eager_error: float, factor: float
) -> None:
    bundle = REFERENCE + factor * eager_error
    tolerance = EAGER_FACTOR * max(eager_error, EPS / 2 * 2.0)
    # Adding and taking away again is exact to a unit in the last place of 2.0.
    slack = 4 * np.finfo(np.float64).eps
    passed = parity(bundle, REFERENCE + eager_error, REFERENCE)
    if factor * eager_error < tolerance * (1 - 1e-6) - slack:
        assert passed
    if factor * eager_error > tolerance * (1 + 1e-6) + slack * EAGER_FACTOR:
        assert not passed


def test_where_eager_is_exact_half_a_unit_in_the_last_place_is_the_yardstick() -> None:
    assert parity(REFERENCE + EPS, REFERENCE, REFERENCE)
    assert not parity(REFERENCE + 16 * EPS, REFERENCE, REFERENCE)


def test_what_moved_edges_cost_is_allowed_where_it_is_more() -> None:
    exact, off = REFERENCE, REFERENCE + 4e-3
    assert not parity(off, exact, exact)
    assert parity(off, exact, exact, edge_error=1.01 * 4e-3 / EDGE_FACTOR)
    assert not parity(off, exact, exact, edge_error=0.99 * 4e-3 / EDGE_FACTOR)
    assert parity(off, exact + 1.01 * 4e-3 / EAGER_FACTOR, exact, edge_error=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_fails_where_the_reference_has_one(bad: float) -> None:
    broken = REFERENCE.copy()
    broken[3] = bad
    assert not parity(broken, REFERENCE + 1.0, REFERENCE)


def test_nan_must_stand_where_the_reference_has_it() -> None:
    reference = REFERENCE.copy()
    reference[2] = np.nan
    assert parity(reference, reference, reference)
    assert not parity(REFERENCE, reference, reference)


def test_another_shape_fails() -> None:
    result = compare(
        "c",
        "t",
        "output",
        bundle=REFERENCE[:-1],
        eager=REFERENCE,
        reference=REFERENCE,
        edge_error=1.0,
    )
    assert not result.passed
    assert result.max_error == float("inf")


def layer(margins: list[float], noise: float) -> LayerTensors:
    tokens = len(margins)
    ids = np.tile(np.array([0, 1], np.int32), (tokens, 1))
    rows = np.zeros((tokens, 4))
    return LayerTensors(
        x=rows,
        y=rows,
        router_logits=rows,
        topk_ids=ids,
        topk_weights=rows[:, :2],
        x_reference=rows,
        y_reference=rows,
        router_logits_reference=rows,
        topk_weights_reference=rows[:, :2],
        margin=np.array(margins),
        noise=np.full(tokens, noise),
        x_edge_error=np.zeros(()),
        y_edge_error=np.zeros(()),
    )


def test_the_order_of_the_chosen_is_no_flip() -> None:
    recorded = layer([1.0, 1.0], 1e-7)
    result = compare_routing("c", "l", recorded, recorded.topk_ids[:, ::-1])
    assert result.agreement == 1.0
    assert result.passed


def test_a_flip_within_the_noise_is_explained_and_beyond_it_a_defect() -> None:
    recorded = layer([1e-7, 1e-3, 1.0], 1e-7)
    ids = recorded.topk_ids.copy()
    ids[0, 1] = 3
    result = compare_routing("c", "l", recorded, ids)
    assert result.passed
    assert result.agreement == pytest.approx(2 / 3)
    ids[1, 1] = 3
    result = compare_routing("c", "l", recorded, ids)
    assert [flip.explained for flip in result.flips] == [True, False]
    assert not result.passed


def test_another_number_of_experts_a_token_fails() -> None:
    recorded = layer([1.0], 1e-7)
    assert not compare_routing("c", "l", recorded, np.zeros((1, 3), np.int32)).passed
