"""Results depend neither on threads, nor on who shares the batch, nor on who runs beside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ops.kernels import packed
from problems import Problem, all_problems

from . import nodes

pytestmark = pytest.mark.usefixtures("library")

PROBLEMS = {str(problem): problem for problem in all_problems()}
SOME = [name for name in PROBLEMS if not name.endswith("T0")][::7]


@pytest.mark.parametrize("name", SOME)
def test_one_two_and_three_threads_give_the_same_bits(name):
    problem = PROBLEMS[name]
    one, *others = (
        nodes.run(problem.op, problem.attributes, problem.inputs, threads=threads)
        for threads in (1, 2, 3)
    )
    for other in others:
        for a, b in zip(one, other, strict=True):
            assert a.tobytes() == b.tobytes()


def routed(problem: Problem, tokens: np.ndarray) -> dict[str, np.ndarray]:
    by_token = ("x", "topk_ids", "topk_weights")
    return {k: a[tokens] if k in by_token else a for k, a in problem.inputs.items()}


@pytest.mark.parametrize("name", [name for name in SOME if name.startswith("Experts-")])
def test_a_token_does_not_see_its_batch(name):
    problem = PROBLEMS[name]
    tokens = np.arange(len(problem.inputs["x"]))
    (whole,) = nodes.run(problem.op, problem.attributes, problem.inputs, threads=2)
    shuffled = np.random.default_rng(0).permutation(np.repeat(tokens, 5))
    (many,) = nodes.run(problem.op, problem.attributes, routed(problem, shuffled), threads=2)
    assert many.tobytes() == whole[shuffled].tobytes()
    for token in tokens:
        alone = routed(problem, tokens[token : token + 1])
        assert nodes.run(problem.op, problem.attributes, alone)[0].tobytes() == (
            whole[token : token + 1].tobytes()
        )


@pytest.mark.parametrize("name", ["Experts-silu-gated", "Experts-int4-block32"])
def test_weights_that_are_fed_give_the_bits_of_constants(name):
    """int4 cannot be fed from Python; in panels everything can."""
    problem = PROBLEMS[name]
    (constant,) = nodes.run(problem.op, problem.attributes, problem.inputs)
    attributes, inputs = packed(problem)
    (fed,) = nodes.run(problem.op, attributes, inputs, fed=inputs)
    assert fed.tobytes() == constant.tobytes()
    if name == "Experts-silu-gated":
        fed = nodes.run(problem.op, problem.attributes, problem.inputs, fed=problem.inputs)[0]
        assert fed.tobytes() == constant.tobytes()


def test_panels_that_lie_askew_are_read_all_the_same():
    problem = PROBLEMS["Experts-silu-gated"]
    attributes, inputs = packed(problem)
    expected = nodes.run(problem.op, attributes, inputs)[0]
    room = np.zeros(inputs["down"].size + 128, np.uint8)
    offset = -room.ctypes.data % 64 + 4
    askew = room[offset : offset + inputs["down"].size]
    askew[:] = inputs["down"]
    inputs["down"] = askew
    assert nodes.run(problem.op, attributes, inputs, fed=inputs)[0].tobytes() == expected.tobytes()


def test_runs_of_one_session_may_overlap():
    problem = PROBLEMS["Experts-silu-gated"]
    fed = ("x", "topk_ids", "topk_weights")
    model = nodes.model(problem.op, problem.attributes, problem.inputs, fed=fed)
    session = nodes.session(model, threads=2)
    tokens = np.arange(len(problem.inputs["x"]))
    rng = np.random.default_rng(1)
    batches = [
        {k: routed(problem, rng.choice(tokens, size))[k] for k in fed}
        for size in rng.integers(0, 300, 40)
    ]
    expected = [session.run(None, batch)[0].tobytes() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda batch: session.run(None, batch)[0].tobytes(), batches))
    assert got == expected


def test_no_tokens_give_no_rows():
    problem = PROBLEMS["Experts-silu-gated"]
    none = routed(problem, np.arange(0))
    (y,) = nodes.run(problem.op, problem.attributes, none)
    assert y.shape == (0, problem.inputs["down"].shape[1])
