"""The fuzzer of ``tools.fuzz`` finds faults, and says so with a small problem and an exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from house.pages import ROOT
from moe_export.moe import reference
from ops import runtimes
from problems import Problem
from tools.fuzz.judge import search

Fault = Callable[[Problem], runtimes.Outputs]


def ties_to_the_last(problem: Problem) -> runtimes.Outputs:
    """Among equals the higher id, where the op takes the lower."""
    if problem.op != "Router" or problem.spec.num_groups > 1:
        return runtimes.reference_f32(problem)
    flipped = {n: np.flip(a, -1) for n, a in problem.inputs.items()}
    weights, ids = runtimes.reference_f32(replace(problem, inputs=flipped))
    return weights, (problem.spec.num_experts - 1 - ids).astype(np.int32)


def last_token_left_out(problem: Problem) -> runtimes.Outputs:
    """Of an expert with more than 16, as a tile that is one row short leaves it."""
    (y,) = runtimes.reference_f32(problem)
    ids = problem.inputs["topk_ids"]
    for expert in range(len(problem.inputs["down"])):
        (rows,) = np.nonzero((ids == expert).any(axis=1))
        if len(rows) > 16:
            y[rows[-1]] = 0
    return (y,)


def elsewhere_is_the_last(problem: Problem) -> runtimes.Outputs:
    """An id beyond the experts counts as that of the last one."""
    experts = int(problem.attributes["num_experts"]) if problem.op == "Dispatch" else 0
    if not experts:
        return runtimes.reference_f32(problem)
    return reference.dispatch(np.minimum(problem.inputs["topk_ids"], experts - 1), experts)


def a_block_too_early(problem: Problem) -> runtimes.Outputs:
    """The scale of the block before, from the third block of a row on."""
    inputs = dict(problem.inputs)
    scales = inputs.get("scales")
    if scales is not None and scales.shape[-1] > 2:
        inputs["scales"] = np.concatenate((scales[..., :2], scales[..., 1:-1]), axis=-1)
    return runtimes.reference_f32(replace(problem, inputs=inputs))


FAULTS: dict[str, tuple[str, Fault]] = {
    "ties": ("Router", ties_to_the_last),
    "rows of a tile": ("Experts", last_token_left_out),
    "ids elsewhere": ("Dispatch and Combine", elsewhere_is_the_last),
    "scales of blocks": ("GroupedMatMul", a_block_too_early),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    op, fault = FAULTS[name]
    known = {"right": runtimes.reference_f32, "faulty": fault}
    found = search([op], list(known), first_seed=5, seconds=60, known=known).found
    assert found is not None
    assert found.runtime == "faulty"
    found.keep(tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as kept:
        assert set(found.problem.inputs) < set(kept.files)


def test_a_round_finds_nothing() -> None:
    words = ["--seconds", "1", "--ops", "Router", "--runtimes", "standard", "ort-panels"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.fuzz", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout
