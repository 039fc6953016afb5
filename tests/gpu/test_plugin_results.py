"""Each plugin, driven from its creator to its results, solves the ops' problems."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from moe_export.moe.layer import ExpertsSpec
from moe_export.moe.schema import OPS
from moe_export.moe.tolerance import FLOAT32_EPS
from ops import runtimes
from ops.test_agreement import FLOAT64_EPS, bound_of
from problems import Problem, experts_problem

from .plugin_harness import (
    GPU_LIBRARY,
    HARNESS,
    HOST_LIBRARY,
    Harness,
    require,
    require_driver,
)
from .plugin_nodes import ROW_TYPES, gpu_problems, node_of, on_gpu

Array = npt.NDArray[Any]

# Even sizes, so that int4 has whole bytes in a row, and blocks that are not full.
EVEN = ExpertsSpec(num_experts=5, hidden_size=38, intermediate_size=18, output_size=7)
PROBLEMS = {
    (name, row_type): problem
    for row_type in ROW_TYPES
    for name, problem in gpu_problems(row_type).items()
    if row_type == "f32" or problem.op in ("Experts", "GroupedMatMul", "Combine")
}
for _row_type in ROW_TYPES:
    for _format, _block in (("int4", 32), ("int4", 64), ("int4", 128), ("int8", 32), ("f16", 0)):
        _spec = replace(EVEN, weight_format=_format, block_size=_block, has_up_bias=True)
        _problem = on_gpu(experts_problem(f"even-{_format}-{_block}", _spec), _row_type)
        assert _problem is not None
        PROBLEMS[str(_problem), _row_type] = _problem


@pytest.fixture(scope="module")
def harness() -> Harness:
    require([HARNESS, HOST_LIBRARY])
    return Harness(HOST_LIBRARY)


@pytest.fixture(scope="module")
def gpu_harness() -> Harness:
    """The library that ships, on a GPU or on what MOE_EXPORT_CUDA_DRIVER has instead of one."""
    require([HARNESS, GPU_LIBRARY])
    require_driver()
    return Harness(GPU_LIBRARY, "driver")


def require_close(problem: Problem, got: list[Array], row_type: str) -> None:
    """Integers and NaN alike; numbers within the op's bound, and rounded once to the row's type."""
    exact = runtimes.reference_f64(problem)
    for output, array, true in zip(OPS[problem.op].outputs, got, exact, strict=True):
        assert array.shape == true.shape
        if output.type == "int32":
            assert array.dtype == np.int32
            np.testing.assert_array_equal(array, true)
            continue
        stored = np.float32 if problem.op == "Router" else ROW_TYPES[row_type]
        assert array.dtype == stored
        bound = bound_of(problem, exact, FLOAT32_EPS) + bound_of(problem, exact, FLOAT64_EPS)
        if stored != np.float32:
            info = ml_dtypes.finfo(stored)
            bound += (np.abs(true) + bound) * float(info.eps) / 2 + float(info.smallest_subnormal)
        with np.errstate(over="ignore"):
            finite = np.isfinite(true.astype(stored).astype(np.float64))
        np.testing.assert_array_equal(np.isnan(array), np.isnan(true))
        error = np.abs(array[finite].astype(np.float64) - true[finite])
        excess = error / np.maximum(bound[finite], np.finfo(np.float64).tiny)
        assert excess.size == 0 or excess.max() <= 1, f"{excess.max():.2f} times the bound"


@pytest.mark.parametrize(("name", "row_type"), PROBLEMS)
def test_a_plugin_solves_the_problem(harness: Harness, name: str, row_type: str) -> None:
    problem = PROBLEMS[name, row_type]
    got = harness.live(node_of(problem, row_type), most_tokens=300)
    require_close(problem, got, row_type)


@pytest.mark.parametrize(("name", "row_type"), PROBLEMS)
def test_the_shipped_library_solves_the_problem(
    gpu_harness: Harness, name: str, row_type: str
) -> None:
    problem = PROBLEMS[name, row_type]
    got = gpu_harness.live(node_of(problem, row_type), most_tokens=300)
    require_close(problem, got, row_type)


SHIFTED = [
    "Experts-silu-gated",
    "Experts-even-int4-32",
    "Experts-int8-block0",
    "Experts-rows-bf16-bf16-wide",
    "Experts-T257",
    "GroupedMatMul-bf16-rows-bf16-128",
    "GroupedMatMul-random-biased",
    "Combine-random",
]


@pytest.mark.parametrize("row_type", ROW_TYPES)
@pytest.mark.parametrize("name", SHIFTED)
def test_a_user_s_tensors_may_begin_anywhere(
    gpu_harness: Harness, name: str, row_type: str
) -> None:
    problem = PROBLEMS[name, row_type]
    got = gpu_harness.live(node_of(problem, row_type), most_tokens=300, shifted=True)
    require_close(problem, got, row_type)


GARBAGE = {
    "Experts-silu-gated": "topk_ids",
    "Dispatch-random": "topk_ids",
    "GroupedMatMul-random": "expert_offsets",
    "GroupedMatMul-random-biased": "expert_offsets",
    "Combine-random": "order",
}


@pytest.mark.parametrize("kind", ["host_library", "shipped_library"])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_instead_of_indices_reaches_nobody_s_memory(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    """TensorRT may time a plugin on inputs that it filled with whatever was at hand.

    No place within the rows is named twice: two rows that race for one spoil each other's alone.
    """
    harness = request.getfixturevalue("harness" if kind == "host_library" else "gpu_harness")
    problem = PROBLEMS[name, "f32"]
    indices = problem.inputs[GARBAGE[name]]
    rng = np.random.default_rng(41)
    large = np.iinfo(np.int32)
    for garbage in (
        rng.integers(large.min, large.max, size=indices.shape, endpoint=True),
        3 * rng.permutation(indices.size).reshape(indices.shape) - 9,
        np.full(indices.shape, large.max),
        np.full(indices.shape, large.min),
    ):
        inputs = {**problem.inputs, GARBAGE[name]: garbage.astype(np.int32)}
        harness.live(node_of(replace(problem, inputs=inputs)))


def test_every_weight_format_is_among_the_problems_of_every_row_type() -> None:
    for row_type in ROW_TYPES:
        formats = {
            problem.attributes["weight_format"]
            for (_, rows), problem in PROBLEMS.items()
            if rows == row_type and problem.op == "Experts"
        }
        assert formats == {"f32", "f16", "bf16", "int8", "int4"}


@pytest.mark.parametrize("spoilt", ["a weight that moved", "another expert"])
def test_a_wrong_answer_exceeds_the_bound(harness: Harness, spoilt: str) -> None:
    problem = PROBLEMS["Experts-even-int4-32", "bf16"]
    inputs = dict(problem.inputs)
    if spoilt == "another expert":
        inputs["topk_ids"] = np.where(inputs["topk_ids"] == 0, 1, inputs["topk_ids"])
    else:
        inputs["down_scales"] = inputs["down_scales"] * np.float32(1.125)
    got = harness.live(node_of(replace(problem, inputs=inputs), "bf16"))
    with pytest.raises(AssertionError, match="times the bound"):
        require_close(problem, got, "bf16")
