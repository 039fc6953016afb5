"""Each custom op of the CUDA library, from its registration to its results, solves the problems."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from problems import Problem

from .ort_harness import GPU_LIBRARY, HARNESS, HOST_LIBRARY, NEWEST, OrtHarness
from .plugin_harness import HarnessError, require, require_driver
from .plugin_nodes import PluginNode, node_of
from .test_plugin_results import GARBAGE, PROBLEMS, require_close


@pytest.fixture(scope="module")
def harness() -> OrtHarness:
    require([HARNESS, HOST_LIBRARY])
    return OrtHarness(HOST_LIBRARY)


@pytest.fixture(scope="module")
def gpu_harness() -> OrtHarness:
    """The library that ships, on a GPU or on what MOE_EXPORT_CUDA_DRIVER has instead of one."""
    require([HARNESS, GPU_LIBRARY])
    require_driver()
    return OrtHarness(GPU_LIBRARY, "driver")


@pytest.mark.parametrize(("name", "row_type"), PROBLEMS)
def test_an_op_solves_the_problem(harness: OrtHarness, name: str, row_type: str) -> None:
    problem = PROBLEMS[name, row_type]
    require_close(problem, harness.run(node_of(problem, row_type)), row_type)


@pytest.mark.parametrize(("name", "row_type"), PROBLEMS)
def test_the_shipped_library_solves_the_problem(
    gpu_harness: OrtHarness, name: str, row_type: str
) -> None:
    problem = PROBLEMS[name, row_type]
    require_close(problem, gpu_harness.run(node_of(problem, row_type), runs=1), row_type)


def test_the_problems_have_what_is_easily_forgotten() -> None:
    """No token, an expert that nobody chose, ties, NaN rows: each is among the problems."""
    routed = [p for (_, rows), p in PROBLEMS.items() if rows == "f32" and p.op == "Router"]
    assert any(p.inputs["router_logits"].shape[0] == 0 for p in routed)
    assert any(np.isnan(p.inputs["router_logits"]).all(1).any() for p in routed)
    assert any(_has_ties(p.inputs["router_logits"]) for p in routed)
    mixed = [p for (_, rows), p in PROBLEMS.items() if rows == "f32" and p.op == "Experts"]
    assert any(p.inputs["x"].shape[0] == 0 for p in mixed)
    assert any(
        p.inputs["topk_ids"].size
        and np.setdiff1d(np.arange(len(p.inputs["down"])), p.inputs["topk_ids"]).size
        for p in mixed
    )


def _has_ties(logits: np.ndarray) -> bool:
    return any(len(np.unique(row[~np.isnan(row)])) < (~np.isnan(row)).sum() for row in logits)


@pytest.mark.parametrize("kind", ["harness", "gpu_harness"])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_instead_of_indices_reaches_nobody_s_memory(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    harness: OrtHarness = request.getfixturevalue(kind)
    problem = PROBLEMS[name, "f32"]
    indices = problem.inputs[GARBAGE[name]]
    large = np.iinfo(np.int32)
    rng = np.random.default_rng(43)
    for garbage in (
        rng.integers(large.min, large.max, size=indices.shape, endpoint=True),
        np.full(indices.shape, large.max),
        np.full(indices.shape, large.min),
    ):
        inputs = {**problem.inputs, GARBAGE[name]: garbage.astype(np.int32)}
        harness.run(node_of(replace(problem, inputs=inputs)), runs=1)


def test_a_wrong_answer_exceeds_the_bound(harness: OrtHarness) -> None:
    problem = PROBLEMS["Experts-even-int4-32", "bf16"]
    inputs = problem.inputs | {"down_scales": problem.inputs["down_scales"] * np.float32(1.125)}
    got = harness.run(node_of(replace(problem, inputs=inputs), "bf16"))
    with pytest.raises(AssertionError, match="times the bound"):
        require_close(problem, got, "bf16")


def test_an_onnx_runtime_without_the_interface_is_told_so() -> None:
    require([HARNESS, HOST_LIBRARY])
    with pytest.raises(HarnessError, match=r"need ONNX Runtime 1\.18 or newer"):
        OrtHarness(HOST_LIBRARY, newest=NEWEST - 1)


EXPERTS = PROBLEMS["Experts-even-int8-32", "f32"]


def changed(problem: Problem, change: dict[str, Any]) -> PluginNode:
    """The problem's node with other inputs or attributes; ``None`` leaves an input out."""
    node = node_of(problem)
    inputs = {**node.inputs, **{k: v for k, v in change.items() if k in node.inputs}}
    inputs |= {k: v for k, v in change.items() if isinstance(v, np.ndarray)}
    given = {name: array for name, array in inputs.items() if array is not None}
    others = {k: v for k, v in change.items() if k not in inputs}
    return replace(node, inputs=given, attributes={**node.attributes, **others})


MALFORMED = {
    "panels": ({"weight_layout": "panels"}, "'weight_layout' is 'panels', expected 'rows'"),
    "row format": ({"row_format": "int8"}, "'row_format' is 'int8', expected one of f32, bf16"),
    "gates in turn": (
        {"gate_layout": "interleaved"},
        "'gate_layout' is 'interleaved', expected 'concat",
    ),
    "zero points": (
        {"down_zeros": np.zeros((5, 7, 1), np.int8)},
        "input 'down_zeros' is given: the GPU has no kernels for zero points",
    ),
    "no scales": ({"up_scales": None}, "input 'up_scales' is missing, expected bfloat16"),
    "wide scales": (
        {"down_scales": np.ones((5, 7, 1), np.float32)},
        r"input 'down_scales' is float32 \[5, 7, 1\], expected bfloat16",
    ),
    "another format": ({"weight_format": "bf16", "block_size": 0}, "input 'down' is int8"),
    "blocks": ({"block_size": 64}, r"expected bfloat16 \[E=5, rows=36, blocks=1\]"),
    "a token too few": ({"topk_ids": np.zeros((1, 2), np.int32)}, "input 'topk_ids' is int32"),
    "another width": ({"x": np.ones((3, 4), np.float32)}, r"expected float32 \[T, H=38\]"),
    "a bias of others": (
        {"up_bias": np.ones((5, 3), np.float32)},
        r"input 'up_bias' is float32 \[5, 3\], expected float32 \[E=5, 2I=36\]",
    ),
    "no numbers": ({"down": np.zeros((5, 0, 18), np.int8)}, "it has no numbers"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_node_that_cannot_run_is_refused_by_its_name(harness: OrtHarness, what: str) -> None:
    change, words = MALFORMED[what]
    with pytest.raises(HarnessError, match=words) as caught:
        harness.run(changed(EXPERTS, change), name="layers.7/experts")
    assert str(caught.value).startswith("moe_export.Experts node 'layers.7/experts': ")


def test_types_that_no_op_takes_are_refused_before_a_kernel_is_made(harness: OrtHarness) -> None:
    rows = EXPERTS.inputs["x"].astype(np.int32)
    with pytest.raises(HarnessError, match="no op takes the types"):
        harness.run(changed(EXPERTS, {"x": rows}))


@pytest.mark.parametrize("op", ["Router-softmax", "Experts-even-int8-32", "Dispatch-random"])
def test_a_machine_without_a_gpu_is_named(
    harness: OrtHarness, monkeypatch: pytest.MonkeyPatch, op: str
) -> None:
    monkeypatch.setenv("MOE_EXPORT_TEST_NO_GPU", "1")
    found = next(p for (name, _), p in PROBLEMS.items() if name.startswith(op))
    with pytest.raises(HarnessError, match=r"node 'layers\.0': no CUDA driver was found"):
        harness.run(node_of(found))


def test_rows_of_every_type_have_an_op(harness: OrtHarness) -> None:
    for row_type, dtype in (("f16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        problem = PROBLEMS["Experts-even-int8-32", row_type]
        (y,) = harness.run(node_of(problem, row_type))
        assert y.dtype == dtype
