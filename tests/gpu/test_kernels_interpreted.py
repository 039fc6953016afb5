"""The GPU kernels' numbers, in Triton's interpreter: the source that is compiled, without a GPU.

The same problems and bounds as every other implementation of the ops, chosen so that each feature
comes once; the interpreter takes seconds for what a GPU does in microseconds.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_export.moe import tolerance
from moe_export.moe.layer import ExpertsSpec, RouterSpec
from moe_export.moe.quantize import parse_precision, quantize
from ops import runtimes
from ops.test_agreement import require_agreement
from problems import (
    SMALL,
    Problem,
    experts_problem,
    experts_problems,
    grouped_problems,
    hostile_logits,
    router_problem,
    router_problems,
    stored_weight_problems,
)

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (tools/gpu/requirements.txt)"
)
ROOT = Path(__file__).resolve().parents[2]

ROUTERS = (
    "softmax", "sigmoid-normalized", "softmax_topk-bias-scale", "sigmoid_topk", "dense-mixture",
    "groups-by-max", "deepseek", "normalize-eps-min", "odd", "many-experts",
)  # fmt: skip
HOSTILE = (
    "softmax", "sigmoid", "softmax_topk", "sigmoid_topk-normalized", "softmax_topk-normalized",
    "deepseek", "groups-of-logits", "dense-mixture",
)  # fmt: skip
EXPERTS = (
    "gelu-gated", "gelu_tanh-plain", "relu-plain", "gpt-oss", "weight-on-input", "linear-biased",
    "hidden-size-1", "f16", "bf16", "T1", "experts-without-tokens", "elsewhere-poisoned",
    "elsewhere-weight-on-input-poisoned", "nan-token", "rows-bf16-linear",
    "rows-bf16-nan-token-wide",
    "rows-bf16-extreme",
)  # fmt: skip
GROUPED = ("Dispatch-", "Combine-", "GroupedMatMul-random", "GroupedMatMul-elsewhere-biased")
# Sizes of whole vectors: the kernels that load 16 bytes at a time.
VECTOR = ExpertsSpec(
    num_experts=5, hidden_size=160, intermediate_size=96, output_size=48, row_format="bf16",
    weight_format="bf16", has_up_bias=True, has_down_bias=True,
)  # fmt: skip
PRECISIONS = ("bf16", "int8", "int8:32", "int8:64", "int8:128", "int4:32", "int4:128")


def rounded(problem: Problem, text: str) -> Problem:
    """Weights as moe-export's quantiser stores them: symmetric, with scales in bfloat16."""
    rng = np.random.default_rng(17)
    inputs = dict(problem.inputs)
    for name in ("up", "down"):
        shape = inputs[name].shape
        stored = quantize(rng.normal(size=shape) / np.sqrt(shape[-1]), parse_precision(text))
        inputs[name] = stored.values
        if stored.scales is not None:
            inputs[f"{name}_scales"] = stored.scales
    return replace(problem, inputs=inputs)


def vector_problems() -> Iterator[Problem]:
    for text in PRECISIONS:
        precision = parse_precision(text)
        how: dict[str, Any] = {
            "weight_format": precision.format,
            "block_size": precision.block_size,
        }
        yield rounded(experts_problem(f"vector-{text}", replace(VECTOR, **how)), text)
        more = precision.format == "int4"  # whose rows end with a byte
        hidden, inner = SMALL.hidden_size + more, SMALL.intermediate_size + more
        sizes = {"hidden_size": hidden, "intermediate_size": inner}
        ragged = replace(SMALL, row_format="bf16", **sizes, **how)
        yield rounded(experts_problem(f"any-{text}", ragged), text)
    plain = replace(VECTOR, activation="relu2", gated=False)
    ids = np.array([[0, 4], [-1, 2], [5, 5]])
    yield experts_problem("vector-plain-elsewhere", plain, num_tokens=3, topk_ids=ids)


def chosen_routers() -> Iterator[Problem]:
    for problem in router_problems():
        if problem.name in (*ROUTERS, "softmax-ties"):
            logits = problem.inputs["router_logits"][:5]
            yield replace(problem, inputs={**problem.inputs, "router_logits": logits})
        if problem.name in HOSTILE:
            assert isinstance(problem.spec, RouterSpec)
            yield router_problem(f"{problem.name}-rows", hostile_logits(8), problem.spec)


def chosen_grouped() -> Iterator[Problem]:
    for problem in grouped_problems():
        if str(problem).startswith(GROUPED) and not problem.name.startswith("T0"):
            yield problem
    for problem in stored_weight_problems():
        if str(problem) == "GroupedMatMul-bf16-rows-bf16-128":
            yield problem


def chosen() -> dict[str, tuple[Problem, int]]:
    """Problems by name, with the rows of a tile (0: by assignment, or without vectors)."""
    found = {str(problem): (problem, 0) for problem in chosen_routers()}
    found |= {str(problem): (problem, 16) for problem in chosen_grouped()}
    for problem in experts_problems():
        if problem.name in EXPERTS:
            found |= {f"{problem}-m{bm}": (problem, bm) for bm in (0, 16)}
    for problem in vector_problems():
        tiles = (0, 16, 32, 64) if problem.name.startswith("vector") else (0, 16)
        found |= {f"{problem}-m{bm}": (problem, bm) for bm in tiles}
    return found


PROBLEMS = chosen()


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest) -> dict[str, runtimes.Outputs]:
    """The problems of the tests that run, in one process: importing Triton costs a second."""
    here = [item for item in request.session.items if item.path == request.path]
    names = {item.callspec.params.get("name") for item in here if hasattr(item, "callspec")}
    asked = {name: PROBLEMS[name] for name in PROBLEMS if name in names}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "gpu.solve"],
        input=pickle.dumps(asked),
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return pickle.loads(done.stdout)  # noqa: S301, from our own process


@needs_triton
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_kernels_agree_with_the_float64_oracle(
    name: str, answers: dict[str, runtimes.Outputs]
) -> None:
    problem, _ = PROBLEMS[name]
    exact = runtimes.reference_f64(problem)
    require_agreement(problem, answers[name], exact, tolerance.FLOAT32_EPS)


@needs_triton
def test_every_stored_format_meets_every_way() -> None:
    names = " ".join(PROBLEMS)
    for text in PRECISIONS:
        for bm in (0, 16, 32, 64):
            assert f"vector-{text}-m{bm}" in names


@needs_triton
@pytest.mark.parametrize("name", [n for n in PROBLEMS if n.startswith("Dispatch")])
def test_order_is_a_stable_permutation(name: str, answers: dict[str, runtimes.Outputs]) -> None:
    problem, _ = PROBLEMS[name]
    order, offsets = answers[name]
    ids = problem.inputs["topk_ids"].reshape(-1)
    assert sorted(order) == list(range(ids.size))
    for expert in range(offsets.size - 1):
        mine = order[offsets[expert] : offsets[expert + 1]]
        assert (ids[mine] == expert).all()
        assert (np.diff(mine) > 0).all()
    outside = order[offsets[-1] :]
    assert ((ids[outside] < 0) | (ids[outside] >= offsets.size - 1)).all()
    assert (np.diff(outside) > 0).all()
