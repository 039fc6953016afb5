"""A cache bound as input and output of one node: the kernel adds to it where it lies."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from moe_export.runtime import kernels
from ops.graphs import node_model, options
from problems import attention_problems

pytestmark = pytest.mark.usefixtures("library")

PROBLEMS = {problem.name: problem for problem in attention_problems()}
GROWING = ("one-row", "token", "batch", "split-keys", "many-rows-batch", "odd-sizes")


def session(problem, threads: int) -> ort.InferenceSession:
    how = options()
    how.intra_op_num_threads = threads
    kernels.register(how)
    model = node_model(problem.op, problem.attributes, problem.inputs).SerializeToString()
    return ort.InferenceSession(model, how, ["CPUExecutionProvider"])


def room_for(past: np.ndarray, total: int) -> np.ndarray:
    """The cache, and behind it what nobody has written yet."""
    room = np.full((total + 3, *past.shape[1:]), np.nan, np.float32)
    room[: len(past)] = past
    return room


def bind(binding, kind: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    place = (name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
    getattr(binding, f"bind_{kind}")(*place)


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("threads", [1, 2])
def test_in_place_gives_the_bits_of_a_copy_and_writes_nothing_else(name, threads):
    problem = PROBLEMS[name]
    running = session(problem, threads)
    y, *presents = running.run(None, dict(problem.inputs))
    binding = running.io_binding()
    rooms = {}
    for key, array in problem.inputs.items():
        if key.startswith("past_"):
            present = presents[key == "past_value"]
            rooms[key] = array = room_for(array, len(present))
            bind(binding, "output", key.replace("past", "present"), array, present.shape)
        bind(binding, "input", key, array, problem.inputs[key].shape)
    made = np.empty_like(y)
    bind(binding, "output", "y", made, made.shape)
    running.run_with_iobinding(binding)
    assert made.tobytes() == y.tobytes()
    for room, present in zip(rooms.values(), presents, strict=True):
        assert room[: len(present)].tobytes() == present.tobytes()
        assert np.isnan(room[len(present) :]).all()


def test_a_place_of_another_size_is_refused():
    problem = PROBLEMS["token"]
    running = session(problem, 1)
    binding = running.io_binding()
    for key, array in problem.inputs.items():
        bind(binding, "input", key, array, array.shape)
    short = np.zeros_like(problem.inputs["past_key"])
    bind(binding, "output", "present_key", short, short.shape)
    for name in ("y", "present_value"):
        binding.bind_output(name, "cpu")
    with pytest.raises(RuntimeError, match=r"present_key|shape"):
        running.run_with_iobinding(binding)
    assert not short.any()


def test_neither_threads_nor_the_place_change_a_bit_of_a_long_cache():
    problem = PROBLEMS["split-keys"]
    alone, together = (session(problem, n).run(None, dict(problem.inputs)) for n in (1, 2))
    for one, other in zip(alone, together, strict=True):
        assert one.tobytes() == other.tobytes()
