"""Draws problems for as long as there is time, and judges every runtime by the oracle's bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, seed, settings

from moe_export.moe import tolerance
from moe_export.runtime.kernels import levels
from ops import kernels, runtimes
from ops.test_agreement import require_agreement
from problems import Problem
from tools.fuzz.drawn import OPS

Runtime = Callable[[Problem], runtimes.Outputs]

A_ROUND = 200
"""Problems of one op that are drawn before the clock is asked."""

FAST = settings(
    max_examples=A_ROUND,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


@dataclass(frozen=True)
class Found:
    """The smallest problem on which a runtime is wrong."""

    problem: Problem
    runtime: str
    why: str

    def keep(self, path: Path) -> None:
        """Its inputs as ``.npz``, narrow types as float32 or int8, and what it is in words."""
        arrays = {
            name: array
            if array.dtype.kind in "fiub" and array.dtype.itemsize > 1
            else array.astype(np.float32)
            for name, array in self.problem.inputs.items()
        }
        facts: Any = {"op": self.problem.op, **self.problem.attributes, "spec": self.problem.spec}
        np.savez(path, **arrays, facts=np.array(str(facts)), runtime=np.array(self.runtime))


@dataclass
class Searched:
    """What was drawn, by op in rounds and problems, and what came of it."""

    seconds: float = 0.0
    drawn: dict[str, tuple[int, int]] = field(default_factory=dict)
    found: Found | None = None


def runtimes_here() -> list[str]:
    """All but the kernels for CPUs that this machine is none of."""
    elsewhere = {f"ort-{level}" for level in kernels.LEVELS if level not in levels()}
    return [name for name in runtimes.RUNTIMES if name not in elsewhere]


def search(
    ops: Sequence[str],
    names: Sequence[str],
    first_seed: int,
    seconds: float,
    known: Mapping[str, Runtime] = runtimes.RUNTIMES,
) -> Searched:
    """Rounds of each op in turn until the time is over or something is found."""
    searched, began, turn = Searched(), time.monotonic(), 0
    chosen = {name: known[name] for name in names}
    while searched.found is None and (not turn or time.monotonic() - began < seconds):
        op = ops[turn % len(ops)]
        searched.found = _round(op, chosen, first_seed + turn)
        rounds, problems = searched.drawn.get(op, (0, 0))
        searched.drawn[op] = (rounds + 1, problems + A_ROUND)
        turn += 1
    searched.seconds = time.monotonic() - began
    return searched


def _round(op: str, chosen: Mapping[str, Runtime], number: int) -> Found | None:
    wrong: list[Found] = []

    @seed(number)
    @FAST
    @given(OPS[op])
    def judged(problem: Problem) -> None:
        with np.errstate(all="ignore"):
            exact = runtimes.reference_f64(problem)
            for name, run in chosen.items():
                try:
                    require_agreement(problem, run(problem), exact, tolerance.FLOAT32_EPS)
                except Exception as error:
                    # Hypothesis tries smaller ones and comes back to the smallest at last.
                    wrong.append(Found(problem, name, str(error).strip().partition("\n")[0]))
                    raise

    try:
        judged()
    except Exception:
        if not wrong:
            raise
        return wrong[-1]
    return None
