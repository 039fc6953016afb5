"""Where eager took other experts than were recorded it is no yardstick, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moe_export.forms import GoldenCase, LayerTensors
from moe_export.validate.departures import departures
from moe_export.validate.labels import labels_of
from moe_export.validate.routing import compare_routing
from moe_export.validate.tensors import REWRITTEN_FACTOR, compare, is_rewritten_otherwise

EPS = float(np.finfo(np.float32).eps)


def layer(*, off: tuple[int, ...] = (), undecided: tuple[int, ...] = ()) -> LayerTensors:
    """Five tokens, of which eager is off on some and undecided on some."""
    random = np.random.default_rng(3)
    y = random.standard_normal((5, 4))
    logits = random.standard_normal((5, 4))
    eager = y.copy()
    eager[list(off)] += 0.5
    margin = np.ones(5)
    margin[list(undecided)] = 1e-9
    ids = np.tile(np.array([2, 0], np.int32), (5, 1))
    weights = np.tile([0.75, 0.25], (5, 1))
    return LayerTensors(
        x=y,
        y=eager,
        router_logits=logits,
        topk_ids=ids,
        topk_weights=weights,
        x_reference=y,
        y_reference=y,
        router_logits_reference=logits,
        topk_weights_reference=weights,
        margin=margin,
        noise=np.full(5, 1e-7),
        x_edge_error=np.zeros(()),
        y_edge_error=np.zeros(()),
        x_rewritten_error=np.array(1e-7),
        y_rewritten_error=np.array(1e-7),
    )


def case(**layers: LayerTensors) -> GoldenCase:
    return GoldenCase(
        name="c",
        inputs={},
        outputs={},
        outputs_reference={},
        outputs_edge_error={},
        layers=layers,
    )


def test_an_eager_model_that_agrees_has_left_nowhere() -> None:
    found = departures(case(a=layer(undecided=(1,)), b=layer()), ["a", "b"])
    assert not found.layers
    assert not found.outputs


def test_all_behind_an_undecided_token_that_is_off_is_another_routing() -> None:
    found = departures(
        case(a=layer(), b=layer(off=(2,), undecided=(2, 4)), c=layer()), ["a", "b", "c"]
    )
    assert found.layers == {"b/y", "c/x", "c/y"}
    assert found.outputs


def test_a_token_that_is_off_and_decided_is_no_departure() -> None:
    found = departures(case(a=layer(off=(1, 2), undecided=(2,))), ["a"])
    assert not found.layers


def test_without_a_rewritten_error_nothing_is_known() -> None:
    unknown = replace(layer(off=(2,), undecided=(2,)), y_rewritten_error=np.array(np.nan))
    assert not departures(case(a=unknown), ["a"]).layers


@pytest.mark.parametrize(("times", "passes"), [(0.9, True), (1.1, False)])
@pytest.mark.parametrize("eager_is_worse", [True, False])
def test_eager_and_rewritten_may_be_a_stated_factor_apart(
    times: float, passes: bool, eager_is_worse: bool
) -> None:
    reference = np.linspace(-2.0, 2.0, 9)
    less, more = 1e-5, 1e-5 * REWRITTEN_FACTOR * times
    eager, rewritten = (more, less) if eager_is_worse else (less, more)
    tensor = compare(
        "c",
        "t",
        "layer",
        bundle=reference,
        eager=reference + eager,
        reference=reference,
        edge_error=0.0,
        rewritten_error=rewritten,
    )
    assert tensor.passed == passes
    assert is_rewritten_otherwise(tensor) == (not passes)


def test_where_eager_has_left_the_rewritten_model_is_the_yardstick() -> None:
    reference = np.linspace(-2.0, 2.0, 9)

    def passed(error: float) -> bool:
        return compare(
            "c",
            "t",
            "layer",
            bundle=reference + error,
            eager=reference + 1.0,
            reference=reference,
            edge_error=0.0,
            rewritten_error=1e-5,
            has_left=True,
        ).passed

    assert passed(7.9e-5)
    assert not passed(8.1e-5)


# --- Weights of the routing -----------------------------------------------------------------------


def test_weights_belong_to_experts_in_whatever_order_they_come() -> None:
    recorded = layer()
    turned = compare_routing(
        "c", "l", recorded, recorded.topk_ids[:, ::-1], recorded.topk_weights[:, ::-1]
    )
    assert turned.passed
    assert turned.weight_error == 0
    crossed = compare_routing("c", "l", recorded, recorded.topk_ids, recorded.topk_weights[:, ::-1])
    assert not crossed.passed
    assert crossed.weight_error == pytest.approx(0.5)


def test_the_weights_of_a_token_that_flips_are_not_compared() -> None:
    recorded = layer(undecided=(3,))
    ids, weights = recorded.topk_ids.copy(), recorded.topk_weights.copy()
    ids[3], weights[3] = (1, 3), (0.9, 0.1)
    assert compare_routing("c", "l", recorded, ids, weights).passed
    weights[2] += 1e-4
    assert not compare_routing("c", "l", recorded, ids, weights).passed


def test_a_weight_may_be_off_by_what_eager_s_logits_do_to_one() -> None:
    recorded = layer()
    noisy = replace(recorded, router_logits=recorded.router_logits + 1e-4)
    off = recorded.topk_weights + 1e-4
    assert compare_routing("c", "l", noisy, noisy.topk_ids, off).passed
    assert not compare_routing("c", "l", recorded, recorded.topk_ids, off).passed


def test_a_weight_that_is_no_number_fails() -> None:
    recorded = layer()
    weights = recorded.topk_weights.copy()
    weights[0, 0] = np.nan
    assert not compare_routing("c", "l", recorded, recorded.topk_ids, weights).passed


# --- Numbers of experts ---------------------------------------------------------------------------


def test_experts_are_found_under_other_numbers_and_only_if_all_are() -> None:
    recorded = layer()
    order = [2, 0, 3, 1]
    moved = recorded.router_logits_reference[:, order]
    labels = labels_of(recorded, moved)
    assert labels is not None
    assert np.array_equal(moved[:, labels], recorded.router_logits_reference)
    assert labels_of(recorded, recorded.router_logits_reference) is None
    assert labels_of(recorded, moved + 1e-3) is None
    assert labels_of(recorded, recorded.router_logits_reference[:, [0, 0, 2, 3]]) is None
