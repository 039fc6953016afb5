from __future__ import annotations

import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from attacks.hostile import replace_file
from bundle.toy import W
from moe_export.errors import MissingEnvironmentError, UnsafeInputError, UsageError
from moe_export.manifest import TensorInfo
from moe_export.runtime import Bundle, Session
from moe_export.runtime.session import check_inputs

X = np.arange(8, dtype=np.float32).reshape(2, 4)
ROWS = X @ W  # small integers: exact in float32, whatever the order of the sums
Y = ROWS + np.array([10, 20, 30], np.float32)


def test_a_session_says_what_it_takes_and_gives(linear):
    with Session(linear) as session:
        assert session.input_names == ("x",)
        assert session.output_names == ("y",)
        assert session.inputs == linear.component().inputs
        assert session.outputs == linear.component().outputs


def test_a_path_is_opened_and_verified(linear, tmp_path):
    copy = shutil.copytree(linear.path, tmp_path / "copy")
    np.testing.assert_array_equal(Session(str(copy)).run({"x": X})["y"], Y)
    (copy / "onnx/model.onnx.data").write_bytes(b"")
    with pytest.raises(UnsafeInputError):
        Session(copy)


@pytest.mark.parametrize("rows", [0, 1, 7, 257])
def test_a_symbolic_axis_takes_any_size(linear, rows):
    x = np.tile(X[:1], (rows, 1))
    result = Session(linear, threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(result, np.tile(Y[:1], (rows, 1)))


def test_threads_do_not_look_for_work_behind_a_run(linear):
    with Session(linear, threads=2) as session:
        session.run({"x": np.tile(X, (100_000, 1))})
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.02


def test_the_probe_graph_shows_what_the_main_graph_hides(linear):
    with Session(linear, graph="probe") as session:
        assert session.output_names == ("y", "rows")
        np.testing.assert_array_equal(session.run({"x": X}, outputs=["rows"])["rows"], ROWS)
    with Session(linear, graph="experts") as session:
        np.testing.assert_array_equal(session.run({"x": X})["y"], Y)
    with pytest.raises(UsageError, match="no graph 'decoder'"):
        Session(linear, graph="decoder")


def test_only_the_asked_outputs_come_back(linear):
    session = Session(linear)
    assert session.run({"x": X}, outputs=[]) == {}
    with pytest.raises(UsageError, match="unknown output 'z'") as refusal:
        session.run({"x": X}, outputs=["z"])
    assert refusal.value.hint == "the outputs are y"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"missing input x float32 \[batch, 4\]"),
        ({"x": X, "z": X}, "unknown input 'z'"),
        ({"x": X.astype(np.float64)}, r"wrong dtype: got float64 \[2, 4\], expected x float32"),
        ({"x": X.tolist()}, "wrong dtype: got float64"),
        ({"x": X[0]}, r"number of axes: got float32 \[4\], expected x float32 \[batch, 4\]"),
        ({"x": X[:, :3]}, r"size 3 on axis 1: got float32 \[2, 3\], expected"),
    ],
)
def test_wrong_inputs_are_told_what_was_given_and_what_is_expected(linear, inputs, message):
    with pytest.raises(UsageError, match=message):
        Session(linear).run(inputs)


def test_one_name_of_a_dimension_means_one_size():
    tokens = TensorInfo(name="tokens", dtype="int64", shape=("batch", "sequence"))
    image = TensorInfo(name="image", dtype="float32", shape=("batch", None))
    given = {"tokens": np.zeros((2, 5), np.int64), "image": np.zeros((2, 9), np.float32)}
    assert check_inputs(given, (tokens, image)).keys() == given.keys()
    given["image"] = np.zeros((3, 9), np.float32)
    with pytest.raises(UsageError, match="'image' has batch = 3, 'tokens' has batch = 2"):
        check_inputs(given, (tokens, image))


def test_values_that_the_model_cannot_take_are_the_users_to_mend(bigram):
    inputs = {"tokens": np.full((1, 2), 99, np.int64), "image": np.zeros((1, 2, 2), np.float32)}
    with pytest.raises(UsageError, match=r"cannot run on these values.*out of data bounds"):
        Session(bigram).run(inputs)


def test_equal_inputs_give_equal_bits(linear):
    x = np.random.default_rng(3).standard_normal((64, 4), np.float32)
    first, second = Session(linear), Session(linear)
    expected = first.run({"x": x})["y"]
    for _ in range(3):
        np.testing.assert_array_equal(first.run({"x": x})["y"], expected)
    np.testing.assert_array_equal(second.run({"x": x})["y"], expected)


def test_threads_may_share_a_session(linear):
    session = Session(linear, threads=1)
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda i: session.run({"x": X + i})["y"], range(64))
        for i, result in enumerate(results):
            np.testing.assert_array_equal(result, (X + i) @ W + np.array([10, 20, 30]))


def test_a_closed_session_says_so(linear):
    with Session(linear) as session:
        pass
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run({"x": X})


def test_nothing_is_printed_by_a_refused_graph(linear, tmp_path, capfd):
    copy = shutil.copytree(linear.path, tmp_path / "copy")
    model = onnx.load(copy / "onnx/model.onnx", load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    replace_file(copy, "onnx/model.onnx", model.SerializeToString())
    with pytest.raises(UnsafeInputError, match="NoSuchOperator") as refusal:
        Session(copy)
    assert refusal.value.where.endswith("onnx/model.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("field", ["ir_version", "opset"])
def test_a_graph_newer_than_onnx_runtime_asks_for_another_onnx_runtime(linear, tmp_path, field):
    copy = shutil.copytree(linear.path, tmp_path / "copy")
    model = onnx.load(copy / "onnx/model.onnx", load_external_data=False)
    if field == "ir_version":
        model.ir_version = 99
    else:
        model.opset_import[0].version = 999
    replace_file(copy, "onnx/model.onnx", model.SerializeToString())
    with pytest.raises(MissingEnvironmentError) as refusal:
        Session(copy)
    assert "upgrade onnxruntime" in refusal.value.hint
    assert refusal.value.exit_code == 5


def test_a_provider_that_is_not_here_is_an_environment_error(linear):
    with pytest.raises(MissingEnvironmentError, match="no TPUExecutionProvider") as refusal:
        Session(linear, providers=["TPUExecutionProvider"])
    assert "CPUExecutionProvider" in refusal.value.hint


def test_without_onnx_runtime_the_error_says_how_to_get_it(linear, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingEnvironmentError) as refusal:
        Session(linear)
    assert refusal.value.hint == "pip install onnxruntime"


def test_threads_must_be_positive(linear):
    with pytest.raises(UsageError, match="threads must be 1 or more"):
        Session(linear, threads=0)


@pytest.mark.parametrize("what", ["missing", "file", "empty folder"])
def test_what_is_no_bundle_is_a_usage_error(tmp_path, what):
    path = tmp_path / "x"
    if what == "file":
        path.write_text("model")
    if what == "empty folder":
        path.mkdir()
    with pytest.raises(UsageError, match="bundle") as refusal:
        Bundle.open(path)
    assert refusal.value.where == str(path)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("version", ["1.24.4", "1.31.0", "0.9"])
def test_a_standard_bundle_is_refused_by_an_onnx_runtime_that_would_end_the_process(
    linear: Bundle, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    needs = rf"'standard' needs ONNX Runtime 1\.32, this is {re.escape(version)}"
    with pytest.raises(MissingEnvironmentError, match=needs):
        Session(linear)


@pytest.mark.parametrize("version", ["1.32.0", "1.33.1+cpu", "2.0"])
def test_a_standard_bundle_runs_on_any_newer_one(
    linear: Bundle, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    Session(linear).close()
