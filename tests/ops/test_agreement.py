"""Every implementation of an op solves every problem within the derived tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from moe_export.moe import reference, tolerance
from moe_export.moe.layer import ExpertsSpec, RouterSpec
from moe_export.moe.schema import OPS
from problems import (
    Problem,
    all_problems,
    attention_problems,
    experts_problems,
    rotary_problems,
    router_problems,
)

from . import runtimes

Array = npt.NDArray[Any]

PROBLEMS = {str(problem): problem for problem in all_problems()}
# Those with rows to round, but to int16: what that changes is as small as what float32's sums may.
# An infinity in a row of int8 alone changes what is finite.
ROUNDED = [
    name
    for name, problem in PROBLEMS.items()
    if problem.attributes.get("row_format", "f32") not in ("f32", "int16")
    and not name.endswith(("T0", "3x0", "nobody", "nan", "nan-token", "nan-token-wide"))
]
FLOAT64_EPS = float(np.finfo(np.float64).eps)


@pytest.fixture(scope="module")
def judgement() -> dict[str, runtimes.Outputs]:
    """The float64 oracle's answer to every problem."""
    return {name: runtimes.reference_f64(problem) for name, problem in PROBLEMS.items()}


def bound_of(problem: Problem, exact: runtimes.Outputs, eps: float) -> Array:
    """Elementwise bound of the problem's float output."""
    inputs, spec = problem.inputs, problem.spec
    with np.errstate(invalid="ignore", over="ignore"):
        if isinstance(spec, RouterSpec):
            return tolerance.router_bound(
                inputs["router_logits"],
                exact[1],
                spec,
                expert_scale=inputs.get("expert_scale"),
                eps=eps,
            )
        if isinstance(spec, ExpertsSpec):
            return tolerance.experts_bound(**inputs, spec=spec, eps=eps)
        if problem.op == "GroupedMatMul":
            return grouped_bound(problem, exact[0].shape, eps)
        if problem.op == "Linear":
            rest = {name: array for name, array in inputs.items() if name != "x"}
            return stored_linear_bound(inputs["x"], problem.attributes, eps=eps, **rest)
        if problem.op == "CachedAttention":
            _, keys, values = exact
            how = problem.attributes
            return tolerance.attention_bound(
                inputs["query"], keys, values, inputs["mask"], eps=eps, **how
            )
        if problem.op == "RotaryHeads":
            return tolerance.rotary_heads_bound(**inputs, eps=eps, **problem.attributes)
        y_assigned = np.empty_like(inputs["y_sorted"])
        y_assigned[inputs["order"]] = inputs["y_sorted"]
        weights = inputs["topk_weights"]
        rows = y_assigned.reshape(*weights.shape, exact[0].shape[1])
        return tolerance.combine_bound(rows, weights, eps=eps)


def grouped_bound(problem: Problem, shape: tuple[int, ...], eps: float) -> Array:
    inputs, bound = problem.inputs, np.zeros(shape)
    offsets = inputs["expert_offsets"]
    names = {"weights": "weight", "bias": "bias", "scales": "scales", "zeros": "zeros"}
    for expert in range(len(offsets) - 1):
        rows = slice(offsets[expert], offsets[expert + 1])
        stored = {to: inputs[name][expert] for name, to in names.items() if name in inputs}
        x = inputs["x_sorted"][rows]
        bound[rows] = stored_linear_bound(x, problem.attributes, eps=eps, **stored)
    return bound


def stored_linear_bound(
    x: Array,
    attributes: Mapping[str, Any],
    *,
    eps: float,
    weight: Array,
    bias: Array | None = None,
    scales: Array | None = None,
    zeros: Array | None = None,
) -> Array:
    block_size = attributes.get("block_size", 0)
    matrix = reference.dequantize(
        weight, np.float64, scales=scales, zeros=zeros, block_size=block_size
    )
    row_format = attributes.get("row_format", "f32")
    return tolerance.linear_bound(x, matrix, bias, row_format=row_format, eps=eps)


def require_agreement(
    problem: Problem, got: runtimes.Outputs, exact: runtimes.Outputs, eps: float
) -> None:
    """Shapes, types, integers and NaN alike; numbers within the bound."""
    for output, array, true in zip(OPS[problem.op].outputs, got, exact, strict=True):
        assert array.shape == true.shape
        if output.type == "int32":
            assert array.dtype == np.int32
            np.testing.assert_array_equal(array, true)
            continue
        if output.name.startswith("present"):
            np.testing.assert_array_equal(array, true)  # moved, not computed
            continue
        bound = bound_of(problem, exact, eps) + bound_of(problem, exact, FLOAT64_EPS)
        finite = np.isfinite(true)
        np.testing.assert_array_equal(np.isnan(array), np.isnan(true))
        np.testing.assert_array_equal(array[~finite], true[~finite].astype(array.dtype))
        error = np.abs(array[finite] - true[finite])
        excess = error / np.maximum(bound[finite], np.finfo(np.float64).tiny)
        assert excess.size == 0 or excess.max() <= 1, f"{excess.max():.2f} times the bound"


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_runtime_agrees_with_the_float64_oracle(
    name: str, runtime: str, judgement: dict[str, runtimes.Outputs]
) -> None:
    problem = PROBLEMS[name]
    got = runtimes.RUNTIMES[runtime](problem)
    require_agreement(problem, got, judgement[name], tolerance.FLOAT32_EPS)
    assert all(array.dtype in (np.float32, np.int32) for array in got)


@pytest.mark.parametrize("name", PROBLEMS)
def test_float64_tokens_are_computed_in_float64_by_pytorch(
    name: str, judgement: dict[str, runtimes.Outputs]
) -> None:
    got = runtimes.torch_eager_f64(PROBLEMS[name])
    require_agreement(PROBLEMS[name], got, judgement[name], FLOAT64_EPS)


@pytest.mark.parametrize("name", PROBLEMS)
def test_fake_tensors_have_the_shapes_of_real_ones(
    name: str, judgement: dict[str, runtimes.Outputs]
) -> None:
    problem = PROBLEMS[name]
    tensors = {key: runtimes.to_torch(array) for key, array in problem.inputs.items()}
    with FakeTensorMode() as mode:
        fakes = {key: mode.from_tensor(tensor) for key, tensor in tensors.items()}
        outputs = runtimes.call_torch(problem.op, problem.attributes, fakes)
    real = runtimes.torch_eager(problem)
    assert [tuple(output.shape) for output in outputs] == [array.shape for array in real]
    assert [output.dtype for output in outputs] == [torch.from_numpy(a).dtype for a in real]


def test_every_problem_has_its_own_name() -> None:
    assert len(PROBLEMS) == len(all_problems())


def test_a_bound_is_small_beside_what_it_bounds() -> None:
    """A bound that allowed a percent would let a wrong kernel pass."""
    computed = router_problems() + experts_problems() + attention_problems() + rotary_problems()
    for problem in computed:
        exact = runtimes.reference_f64(problem)
        bound = bound_of(problem, exact, tolerance.FLOAT32_EPS)
        finite = np.isfinite(exact[0]) & np.isfinite(bound)
        if finite.any() and np.abs(exact[0][finite]).max() > 0:
            largest = np.abs(exact[0][finite]).max()
            assert bound[finite].max() < 1e-2 * largest, problem.name


@pytest.mark.parametrize("broken", ["swapped experts", "a weight that moved", "lost assignment"])
def test_a_wrong_answer_exceeds_the_bound(broken: str) -> None:
    problem = PROBLEMS["Experts-silu-gated"]
    exact = runtimes.reference_f64(problem)
    inputs = dict(problem.inputs)
    if broken == "swapped experts":
        inputs["topk_ids"] = np.where(inputs["topk_ids"] == 0, 1, inputs["topk_ids"])
    elif broken == "a weight that moved":
        inputs["down"] = inputs["down"].copy()
        inputs["down"][:, 3, 2] += 1e-3
    else:
        inputs["topk_ids"] = inputs["topk_ids"].copy()
        inputs["topk_ids"][5, 1] = -1
    wrong = Problem(
        name=broken, op="Experts", inputs=inputs, spec=problem.spec, attributes=problem.attributes
    )
    with pytest.raises(AssertionError, match="times the bound"):
        require_agreement(problem, runtimes.reference_f32(wrong), exact, tolerance.FLOAT32_EPS)


@pytest.mark.parametrize(
    "broken", ["turned back", "another order", "another epsilon", "another norm"]
)
def test_heads_that_are_wrong_exceed_the_bound(broken: str) -> None:
    problem = PROBLEMS["RotaryHeads-norm-epsilon-half"]
    inputs, attributes = dict(problem.inputs), dict(problem.attributes)
    if broken == "turned back":
        inputs["sin"] = -inputs["sin"]
    elif broken == "another order":
        by_head = inputs["x"].reshape(*inputs["x"].shape[:2], 4, 8, 2)
        inputs["x"] = by_head.swapaxes(-1, -2).reshape(inputs["x"].shape)
    elif broken == "another epsilon":
        attributes["epsilon"] = 0.4999
    else:
        inputs["norm"] = inputs["norm"] + np.float32(1e-4)
    wrong = replace(problem, inputs=inputs, attributes=attributes)
    exact, got = runtimes.reference_f64(problem), runtimes.reference_f32(wrong)
    with pytest.raises(AssertionError, match="times the bound"):
        require_agreement(problem, got, exact, tolerance.FLOAT32_EPS)


@pytest.mark.parametrize("name", ROUNDED)
def test_rows_that_are_not_rounded_exceed_the_bound(
    name: str, judgement: dict[str, runtimes.Outputs]
) -> None:
    problem = PROBLEMS[name]
    spec = None if problem.spec is None else replace(problem.spec, row_format="f32")
    attributes = {**problem.attributes, "row_format": "f32"}
    other = runtimes.reference_f64(replace(problem, spec=spec, attributes=attributes))
    with pytest.raises(AssertionError, match="times the bound"):
        require_agreement(problem, other, judgement[name], tolerance.FLOAT32_EPS)


@pytest.mark.parametrize("opset_version", [21, 22, 23, 24])
@pytest.mark.parametrize(
    "name",
    [
        "Router-deepseek",
        "Experts-gpt-oss",
        "Experts-int4-block32",
        "Experts-rows-int8-int4:32",
        "Linear-bf16-rows-bf16-33-rank3",
        "CachedAttention-padding",
        "RotaryHeads-norm-partial",
    ],
)
def test_a_body_lives_in_graphs_of_later_opsets(
    name: str, opset_version: int, judgement: dict[str, runtimes.Outputs]
) -> None:
    problem = PROBLEMS[name]
    got = runtimes.run_body(
        problem.op, problem.attributes, problem.inputs, opset_version=opset_version
    )
    require_agreement(problem, got, judgement[name], tolerance.FLOAT32_EPS)
