"""Work is cancelled in the middle of a run, and nothing is printed."""

from __future__ import annotations

import threading
import time

import numpy as np
import onnx
import onnxruntime
import pytest

from moe_export.manifest import TensorInfo
from moe_export.runtime import Session
from moe_export.runtime.binding import Binding, running
from moe_export.runtime.cancel import Cancellation, Cancelled

# Counts to a number, one node after the other.
COUNTING = """
<ir_version: 10, opset_import: ["" : 21]>
counting (int64 most) => (int64 last)
<int64 zero = {0}, int64 one = {1}>
{
    last = Loop(most, , zero)
    <body = step (int64 number, bool going, int64 before) => (bool goes, int64 after)
    {
        goes = Identity(going)
        after = Add(before, one)
    }>
}
"""

# A loop of a second counts to some millions.
FOR_HOURS = np.array(10**11)


@pytest.fixture
def counting() -> onnxruntime.InferenceSession:
    model = onnx.parser.parse_model(COUNTING).SerializeToString()
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_a_run_ends_in_its_middle(counting, capfd):
    cancel = Cancellation()
    timer = threading.Timer(0.2, cancel.cancel)
    started = time.monotonic()
    timer.start()
    with pytest.raises(Cancelled), running({}, cancel):
        counting.run(None, {"most": FOR_HOURS}, cancel.run_options())
    timer.join()
    assert 0.2 <= time.monotonic() - started < 60
    assert capfd.readouterr() == ("", "")
    assert counting.run(None, {"most": np.array(5)}) == [5], "another run hears nothing of it"


def test_a_bound_run_ends_in_its_middle(counting):
    infos = [TensorInfo(name=name, dtype="int64", shape=()) for name in ("most", "last")]
    binding = Binding(counting, infos[:1], infos[1:])
    binding.give("most", FOR_HOURS)
    last = np.zeros((), np.int64)
    binding.take("last", last)
    cancel = Cancellation()
    timer = threading.Timer(0.2, cancel.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        binding.run(cancel)
    timer.join()
    binding.give("most", np.array(7))
    binding.run(Cancellation())
    assert last == 7


def test_what_was_cancelled_before_begins_nothing(linear):
    cancel = Cancellation()
    cancel.cancel()
    with Session(linear) as session:
        with pytest.raises(Cancelled):
            session.run({"x": np.zeros((1, 4), np.float32)}, cancel=cancel)
        assert session.run({"x": np.zeros((1, 4), np.float32)}, cancel=Cancellation())
    with pytest.raises(Cancelled):
        cancel.check()


def test_another_error_stays_what_it_is(bigram):
    inputs = {"tokens": np.full((1, 2), 99, np.int64), "image": np.zeros((1, 2, 2), np.float32)}
    with pytest.raises(Exception, match="cannot run on these values"):
        Session(bigram).run(inputs, cancel=Cancellation())
