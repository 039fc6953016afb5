"""Running an engine: memory, copies, profiles, comparison; GPU and TensorRT are stand-ins.

The driver is the mock one of ``tools/ptx``; TensorRT is ``stand_in``, where ONNX Runtime computes.
The real ones were never here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moe_export
from house.pages import ROOT
from line import tiny
from moe_export import Bundle
from moe_export.engines.libraries import plugin_library
from moe_export.errors import MissingEnvironmentError
from tools.ptx.build import mock_driver

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

STAND_IN = Path(__file__).parent / "stand_in"
VALIDATE = """
import json, sys
from moe_export import Bundle
from moe_export.validate import validate
report = validate(Bundle.open(sys.argv[1]))
print(json.dumps({
    "passed": report.passed,
    "engine": [t.passed for t in report.tensors if t.name.startswith("engine: ")],
    "not_run": dict(report.not_run),
}))
"""
RUN = """
import sys
import numpy as np
from moe_export import Bundle, Session
from moe_export.runtime.engine import EngineSession
bundle = Bundle.open(sys.argv[1])
random = np.random.default_rng(0)
with Session(bundle) as session, EngineSession(bundle) as engine:
    for batch, sequence in ((1, 1), (2, 5), (1, 64)):
        inputs = {
            "image": random.standard_normal((batch, 4, 4)).astype(np.float32),
            "tokens": random.integers(0, 13, (batch, sequence)),
        }
        expected, made = session.run(inputs), engine.run(inputs)
        assert expected.keys() == made.keys()
        for name in expected:
            np.testing.assert_array_equal(made[name], expected[name])
    assert list(engine.run(inputs, outputs=["hidden"])) == ["hidden"]
    engine.run({**inputs, "tokens": np.zeros((1, 65), np.int64)})
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    try:
        plugin_library()
    except MissingEnvironmentError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    return moe_export.export(
        tiny.build(),
        output=tmp_path_factory.mktemp("session") / "tiny.moe",
        example_inputs=tiny.example_inputs(),
        target="trt-rtx",
        sms=(80,),
        max_tokens=64,
    )


def on_the_device(bundle: Bundle, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    """``script`` where the stand-ins are."""
    variables = {
        "PYTHONPATH": os.pathsep.join([str(STAND_IN), str(ROOT)]),
        "LD_LIBRARY_PATH": str(mock_driver().parent),
        "STAND_IN_GRAPH": str(bundle.graph_path()),
    }
    return subprocess.run(
        [sys.executable, "-c", script, str(bundle.path)],
        env={**os.environ, **variables, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def verdict(bundle: Bundle, **more: str) -> dict:
    done = on_the_device(bundle, VALIDATE, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_engine_gives_what_its_graph_gives_for_every_size_of_its_profile(bundle: Bundle):
    done = on_the_device(bundle, RUN)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-2:] == [
        "at: engines/trt-rtx/sm80/model.plan",
        "hint: build it with a larger --max-batch, --max-tokens or --max-image-tokens",
    ]
    assert "no profile of the engine has room for" in done.stderr


def test_validate_runs_the_engine_of_the_gpu_that_is_here(bundle: Bundle):
    found = verdict(bundle)
    assert found["passed"]
    assert len(found["engine"]) == sum(len(case.outputs) for case in bundle.golden().cases)
    assert not found["not_run"]


def test_a_wrong_engine_fails_validation(bundle: Bundle):
    found = verdict(bundle, STAND_IN_SPOILS="1")
    assert not found["passed"]
    assert not any(found["engine"])


def test_an_engine_for_another_gpu_is_not_run(bundle: Bundle):
    found = verdict(bundle, MOE_EXPORT_MOCK_CAPABILITY="90")
    assert found["passed"]
    assert not found["engine"]
    assert "SM 90" in found["not_run"]["engine of model"]


def test_another_plugin_library_than_the_engine_was_built_with_is_refused(
    bundle: Bundle, tmp_path: Path
):
    other = tmp_path / "libmoe_export_trt.so"
    other.write_bytes(plugin_library().read_bytes() + b"\0")
    done = on_the_device(bundle, RUN, MOE_EXPORT_TRT_LIBRARY=str(other))
    assert done.returncode == 1
    assert "UnsafeInputError: the plugin library is" in done.stderr
