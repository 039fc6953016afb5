"""Laws that hold for every routing, not only for the problems somebody thought of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_export.moe import reference, tolerance
from moe_export.moe.layer import ExpertsSpec, RouterSpec, Score
from problems import (
    SMALL,
    Problem,
    experts_problem,
    hostile_logits,
    rotary_problem,
    router_problem,
)

from . import graphs, runtimes

Array = npt.NDArray[Any]
few = settings(max_examples=60, deadline=None)
run_everywhere = pytest.mark.parametrize("run", runtimes.RUNTIMES.values(), ids=runtimes.RUNTIMES)


@st.composite
def routings(draw: st.DrawFn) -> tuple[Array, int]:
    """``topk_ids [T, K]``, some of them outside ``[0, E)``, and E."""
    num_experts = draw(st.integers(1, 9))
    num_tokens, top_k = draw(st.integers(0, 12)), draw(st.integers(1, 4))
    size = num_tokens * top_k
    ids = draw(st.lists(st.integers(-2, num_experts + 1), min_size=size, max_size=size))
    return np.array(ids, np.int32).reshape(num_tokens, top_k), num_experts


@st.composite
def router_specs(draw: st.DrawFn) -> RouterSpec:
    num_groups = draw(st.sampled_from([1, 1, 2, 3]))
    group_size = draw(st.integers(2, 5))
    topk_groups = draw(st.integers(1, num_groups))
    return RouterSpec(
        num_experts=num_groups * group_size,
        top_k=draw(st.integers(1, topk_groups * group_size)),
        score=draw(st.sampled_from(get_args(Score))),
        normalize=draw(st.booleans()),
        num_groups=num_groups,
        topk_groups=topk_groups,
        group_score=draw(st.sampled_from(["max", "top2_sum"])),
    )


def logits_for(spec: RouterSpec, seed: int, num_tokens: int = 6) -> Array:
    return 3 * np.random.default_rng(seed).normal(size=(num_tokens, spec.num_experts))


# --- Dispatch and Combine -------------------------------------------------------------------------


@few
@given(routings())
def test_no_assignment_is_lost(routing: tuple[Array, int]) -> None:
    topk_ids, num_experts = routing
    order, offsets = reference.dispatch(topk_ids, num_experts)
    assert sorted(order) == list(range(topk_ids.size))
    ids = topk_ids.reshape(-1)
    assert offsets[0] == 0
    assert offsets[-1] == ((ids >= 0) & (ids < num_experts)).sum()
    for expert in range(num_experts):
        mine = order[offsets[expert] : offsets[expert + 1]]
        np.testing.assert_array_equal(mine, np.flatnonzero(ids == expert))


@few
@given(routings(), st.integers(0, 99))
def test_the_fused_op_is_dispatch_two_matmuls_and_combine(
    routing: tuple[Array, int], seed: int
) -> None:
    topk_ids, num_experts = routing
    spec = replace(SMALL, num_experts=num_experts)
    whole = experts_problem("any", spec, num_tokens=len(topk_ids), topk_ids=topk_ids, seed=seed)
    inputs = whole.inputs
    order, offsets = reference.dispatch(topk_ids, num_experts)
    rows = inputs["x"].astype(np.float64)[order // topk_ids.shape[1]]
    hidden = reference.grouped_matmul(rows, offsets, inputs["up"])
    inner = reference.activate("silu", *reference.split_gate(hidden, "concatenated"))
    y_sorted = reference.grouped_matmul(inner, offsets, inputs["down"])
    y = reference.combine(y_sorted, order, inputs["topk_weights"])
    np.testing.assert_allclose(y, runtimes.reference_f64(whole)[0], rtol=0, atol=1e-13)


@run_everywhere
def test_the_sum_runs_in_order_of_k(run: Callable[[Problem], runtimes.Outputs]) -> None:
    """In order, 2**24 + 1 - 2**24 is 0 in float32; in any other order it is 1."""
    rows = np.array([[2.0**24], [1.0], [-(2.0**24)]], np.float32)
    inputs = {
        "y_sorted": rows,
        "order": np.arange(3, dtype=np.int32),
        "topk_weights": np.ones((1, 3), np.float32),
    }
    combine = Problem(name="order", op="Combine", inputs=inputs, attributes={})
    assert run(combine)[0] == 0
    spec = ExpertsSpec(
        num_experts=3, hidden_size=1, intermediate_size=0, output_size=1,
        gated=False, activation="identity",
    )  # fmt: skip
    inputs = {
        "x": np.ones((1, 1), np.float32),
        "topk_ids": np.arange(3, dtype=np.int32)[np.newaxis],
        "topk_weights": np.ones((1, 3), np.float32),
        "down": rows[:, np.newaxis],
    }
    fused = Problem(
        name="order", op="Experts", inputs=inputs, spec=spec, attributes=spec.attributes()
    )
    assert run(fused)[0] == 0


# --- Router ---------------------------------------------------------------------------------------


@few
@given(router_specs(), st.integers(0, 999))
def test_permuting_tokens_permutes_the_routing(spec: RouterSpec, seed: int) -> None:
    logits = logits_for(spec, seed)
    shuffle = np.random.default_rng(seed).permutation(len(logits))
    weights, ids = reference.route(logits, spec)
    shuffled_weights, shuffled_ids = reference.route(logits[shuffle], spec)
    np.testing.assert_array_equal(ids[shuffle], shuffled_ids)
    np.testing.assert_array_equal(weights[shuffle], shuffled_weights)


@few
@given(router_specs(), st.integers(0, 999))
def test_relabelling_experts_changes_nothing_without_ties(spec: RouterSpec, seed: int) -> None:
    spec = replace(spec, num_groups=1, topk_groups=1)
    logits = logits_for(spec, seed)
    old_of_new = np.random.default_rng(seed).permutation(spec.num_experts)
    weights, ids = reference.route(logits, spec)
    new_weights, new_ids = reference.route(logits[:, old_of_new], spec)
    np.testing.assert_array_equal(old_of_new[new_ids], ids)
    np.testing.assert_allclose(new_weights, weights, rtol=1e-14)


@few
@given(router_specs(), st.integers(0, 999))
def test_normalized_weights_sum_to_1(spec: RouterSpec, seed: int) -> None:
    weights, _ = reference.route(logits_for(spec, seed), replace(spec, normalize=True))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-14)


@few
@given(router_specs(), st.integers(0, 999))
def test_a_replayed_choice_gives_the_same_weights(spec: RouterSpec, seed: int) -> None:
    logits = logits_for(spec, seed)
    weights, ids = reference.route(logits, spec)
    replayed, same = reference.route(logits, spec, topk_ids=ids)
    np.testing.assert_array_equal(replayed, weights)
    np.testing.assert_array_equal(same, ids)


@few
@given(router_specs(), st.integers(0, 999))
def test_noise_below_the_routing_margin_flips_no_expert(spec: RouterSpec, seed: int) -> None:
    """A logit that moves by d moves a score by at most d, and a sum of two by at most 2 d."""
    logits = logits_for(spec, seed)
    margin = reference.routing_margin(logits, spec)[:, np.newaxis]
    noise = np.random.default_rng(seed).uniform(-1, 1, size=logits.shape)
    moved = logits + noise * np.minimum(margin / 4.001, 1)
    sets = [np.sort(reference.route(given, spec)[1], axis=1) for given in (logits, moved)]
    np.testing.assert_array_equal(*sets)


@run_everywhere
@pytest.mark.parametrize("score", get_args(Score))
@pytest.mark.parametrize("num_experts", [3, 13, 64, 1000])
def test_ties_go_to_the_lower_id(
    run: Callable[[Problem], runtimes.Outputs], score: Score, num_experts: int
) -> None:
    """Few distinct values over many experts: every row is full of exact ties."""
    rng = np.random.default_rng(num_experts)
    logits = rng.integers(0, 3, size=(20, num_experts)).astype(np.float32)
    spec = RouterSpec(num_experts=num_experts, top_k=min(num_experts, 37), score=score)
    _, ids = run(router_problem("ties", logits, spec))
    by_value_then_id = np.lexsort((np.broadcast_to(np.arange(num_experts), logits.shape), -logits))
    np.testing.assert_array_equal(ids, by_value_then_id[:, : spec.top_k])


@run_everywhere
@pytest.mark.parametrize("score", get_args(Score))
def test_nan_is_never_chosen_while_a_number_is_left(
    run: Callable[[Problem], runtimes.Outputs], score: Score
) -> None:
    """All NaN, 2 numbers, 1 number, 1 NaN; and NaN beside -inf, which to a softmax is no number."""
    logits = hostile_logits(8)[[0, 1, 2, 3] if score == "softmax" else [0, 1, 2, 3, 8]]
    spec = RouterSpec(num_experts=8, top_k=3, score=score)
    weights, ids = run(router_problem("nan", logits, spec))
    for row, chosen, weight in zip(logits.astype(np.float32), ids, weights, strict=True):
        numbers = int((~np.isnan(row)).sum())
        assert np.isnan(row[chosen]).sum() == max(0, 3 - numbers)
        assert np.isnan(weight[np.isnan(row[chosen])]).all()
    np.testing.assert_array_equal(ids[0], [0, 1, 2])
    assert np.isnan(weights[0]).all()


# --- Experts --------------------------------------------------------------------------------------


@few
@given(routings(), st.integers(0, 99))
def test_permuting_tokens_permutes_outputs(routing: tuple[Array, int], seed: int) -> None:
    topk_ids, num_experts = routing
    spec = replace(SMALL, num_experts=num_experts)
    problem = experts_problem("any", spec, num_tokens=len(topk_ids), topk_ids=topk_ids, seed=seed)
    shuffle = np.random.default_rng(seed).permutation(len(topk_ids))
    tokens = {name: problem.inputs[name][shuffle] for name in ("x", "topk_ids", "topk_weights")}
    shuffled = replace(problem, inputs={**problem.inputs, **tokens})
    y, shuffled_y = runtimes.reference_f64(problem)[0], runtimes.reference_f64(shuffled)[0]
    np.testing.assert_allclose(shuffled_y, y[shuffle], rtol=0, atol=1e-13)


@few
@given(routings(), st.integers(0, 99))
def test_relabelling_experts_changes_no_output(routing: tuple[Array, int], seed: int) -> None:
    topk_ids, num_experts = routing
    spec = replace(SMALL, num_experts=num_experts)
    problem = experts_problem("any", spec, num_tokens=len(topk_ids), topk_ids=topk_ids, seed=seed)
    old_of_new = np.random.default_rng(seed).permutation(num_experts)
    inside = (topk_ids >= 0) & (topk_ids < num_experts)
    new_ids = np.where(inside, np.argsort(old_of_new)[np.where(inside, topk_ids, 0)], topk_ids)
    weights = {name: problem.inputs[name][old_of_new] for name in ("up", "down")}
    relabelled = replace(
        problem, inputs={**problem.inputs, **weights, "topk_ids": new_ids.astype(np.int32)}
    )
    y, new_y = runtimes.reference_f64(problem)[0], runtimes.reference_f64(relabelled)[0]
    np.testing.assert_array_equal(new_y, y)


@run_everywhere
def test_one_expert_is_a_dense_ffn(run: Callable[[Problem], runtimes.Outputs]) -> None:
    spec = replace(SMALL, num_experts=1)
    problem = experts_problem("dense", spec, top_k=1)
    ones = np.ones((7, 1), np.float32)
    problem = replace(problem, inputs={**problem.inputs, "topk_weights": ones})
    wide = {name: array.astype(np.float64) for name, array in problem.inputs.items()}
    gate, value = np.split(wide["x"] @ wide["up"][0].T, 2, axis=1)
    dense = (gate / (1 + np.exp(-gate)) * value) @ wide["down"][0].T
    bound = tolerance.experts_bound(**problem.inputs, spec=spec)
    assert (np.abs(run(problem)[0] - dense) <= bound).all()


@run_everywhere
@pytest.mark.parametrize("weight_on", ["output", "input"])
def test_an_expert_nobody_chose_is_not_evaluated(
    run: Callable[[Problem], runtimes.Outputs], weight_on: Any
) -> None:
    problem = experts_problem("nan-experts", replace(SMALL, weight_on=weight_on))
    ids = np.where(problem.inputs["topk_ids"] % 2, 1, 3).astype(np.int32)
    poisoned = {name: problem.inputs[name].copy() for name in ("up", "down")}
    for weight in poisoned.values():
        weight[[0, 2, 4]] = np.nan
    problem = replace(problem, inputs={**problem.inputs, **poisoned, "topk_ids": ids})
    assert np.isfinite(run(problem)[0]).all()


def test_the_onnx_body_multiplies_only_for_experts_that_were_chosen(tmp_path: Path) -> None:
    problem = experts_problem("profiled", replace(SMALL, num_experts=5))
    ids = np.where(problem.inputs["topk_ids"] % 2, 1, 3).astype(np.int32)
    problem = replace(problem, inputs={**problem.inputs, "topk_ids": ids})
    assert set(np.unique(ids)) == {1, 3}
    ran = _kernels_that_ran(problem.op, problem.attributes, problem.inputs, tmp_path)
    assert ran.count("Gemm") == 2 * 2  # up and down, of two experts


def _kernels_that_ran(
    op: str, attributes: Mapping[str, Any], inputs: Mapping[str, Array], folder: Path
) -> list[str]:
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    model = graphs.body_model(op, attributes, inputs)
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    session.run(None, dict(inputs))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]


@run_everywhere
@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, weight_on="input", has_up_bias=True)])
def test_no_tokens_give_no_rows(run: Callable[[Problem], runtimes.Outputs], spec: Any) -> None:
    assert run(experts_problem("none", spec, num_tokens=0))[0].shape == (0, spec.output_size)


def test_gelu_is_the_exact_one() -> None:
    """x Phi(x) at 1, from a table of the normal distribution."""
    assert reference.activate("gelu", np.array([1.0]))[0] == pytest.approx(0.8413447460685429)


def test_replaying_an_id_that_does_not_exist_is_refused() -> None:
    spec = RouterSpec(num_experts=4, top_k=1)
    with pytest.raises(ValueError, match=r"in \[0, 4\)"):
        reference.route(np.zeros((1, 4)), spec, topk_ids=np.array([[4]]))


def test_weights_of_another_shape_are_refused() -> None:
    problem = experts_problem("any", SMALL)
    with pytest.raises(ValueError, match="up"):
        reference.experts(
            *(problem.inputs[name] for name in ("x", "topk_ids", "topk_weights")),
            SMALL,
            up=problem.inputs["up"][:, 1:],
            down=problem.inputs["down"],
        )


@few
@given(st.data())
def test_rivals_are_the_last_chosen_and_the_first_not_chosen(data: st.DataObject) -> None:
    spec = data.draw(router_specs())
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(
        (5, spec.num_experts)
    )
    _, ids = reference.route(logits, spec)
    margin = reference.routing_margin(logits, spec)
    scores = reference.selecting_scores(logits, spec)
    for token, (chosen, other) in enumerate(reference.rivals(logits, spec)):
        assert chosen == ids[token, -1]
        if other < 0:
            assert np.isinf(margin[token]) or spec.num_groups > 1
            continue
        assert other not in ids[token]
        assert scores[token, chosen] - scores[token, other] == margin[token]


# --- RotaryHeads ----------------------------------------------------------------------------------


@st.composite
def heads_to_turn(draw: st.DrawFn) -> tuple[Array, int, int]:
    """``x [B,S,N*d]``, N, and a number of angles that such heads may have."""
    batch, length = draw(st.integers(0, 2)), draw(st.integers(0, 4))
    heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.normal(size=(batch, length, heads * width)), heads, draw(st.integers(0, width // 2))


def turned(x: Array, angles: Array, num_heads: int) -> Array:
    return reference.rotary_heads(x, np.cos(angles), np.sin(angles), num_heads=num_heads)


@few
@given(heads_to_turn(), st.integers(0, 99))
def test_a_rotation_keeps_the_length_of_a_head(
    given_heads: tuple[Array, int, int], seed: int
) -> None:
    x, heads, half = given_heads
    angles = np.random.default_rng(seed).uniform(-9, 9, size=(*x.shape[:2], half))
    y = turned(x, angles, heads)
    by_head = (*x.shape[:2], heads, x.shape[2] // heads)
    before, after = (np.linalg.norm(rows.reshape(by_head), axis=-1) for rows in (x, y))
    np.testing.assert_allclose(after, before, rtol=1e-13)
    np.testing.assert_array_equal(
        y.reshape(by_head)[..., 2 * half :], x.reshape(by_head)[..., 2 * half :]
    )


@few
@given(heads_to_turn(), st.integers(0, 99))
def test_two_rotations_are_one_by_both_angles(
    given_heads: tuple[Array, int, int], seed: int
) -> None:
    x, heads, half = given_heads
    first, second = np.random.default_rng(seed).uniform(-9, 9, size=(2, *x.shape[:2], half))
    twice = turned(turned(x, first, heads), second, heads)
    np.testing.assert_allclose(twice, turned(x, first + second, heads), rtol=0, atol=1e-13)


def test_a_rotation_turns_the_first_half_towards_the_second() -> None:
    """By a right angle: (1, 2, 3, 4 | 5) becomes (-3, -4, 1, 2 | 5), in each head."""
    x = np.array([[[1.0, 2, 3, 4, 5, 6, 7, 8, 9, 0]]])
    y = reference.rotary_heads(x, np.zeros((1, 1, 2)), np.ones((1, 1, 2)), num_heads=2)
    np.testing.assert_array_equal(y, [[[-3, -4, 1, 2, 5, -8, -9, 6, 7, 0]]])


@few
@given(heads_to_turn(), st.integers(0, 99))
def test_a_norm_of_ones_leaves_a_mean_square_of_1(
    given_heads: tuple[Array, int, int], seed: int
) -> None:
    x, heads, half = given_heads
    angles = np.random.default_rng(seed).uniform(-9, 9, size=(*x.shape[:2], half))
    width = x.shape[2] // heads
    y = reference.rotary_heads(x, np.cos(angles), np.sin(angles), np.ones(width), num_heads=heads)
    means = np.square(y).reshape(*x.shape[:2], heads, width).mean(axis=-1)
    np.testing.assert_allclose(means, 1, rtol=1e-12)


@run_everywhere
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_a_head_that_is_no_number_stays_alone(
    run: Callable[[Problem], runtimes.Outputs], norm: bool, spoilt: float
) -> None:
    problem = rotary_problem("alone", (1, 3, 4, 24), 9, norm=norm, epsilon=1e-6)
    x = problem.inputs["x"].copy()
    x[0, 1, 24:48] = spoilt
    (y,) = run(problem)
    (after,) = run(replace(problem, inputs={**problem.inputs, "x": x}))
    assert not np.isfinite(after[0, 1, 24:48]).any()
    after[0, 1, 24:48] = y[0, 1, 24:48]
    np.testing.assert_array_equal(after, y)
