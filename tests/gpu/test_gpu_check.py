"""``tools.gpu_check`` on the mock driver: what a machine with a GPU will run first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from house.pages import ROOT

from .conftest import KERNELS
from .plugin_harness import GPU_LIBRARY, HARNESS, require


def check(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MOE_EXPORT_")}
    return subprocess.run(
        [sys.executable, "-m", "tools.gpu_check", *words],
        cwd=ROOT,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_gpu_nothing_is_run():
    done = check()
    assert done.returncode == 5
    assert done.stderr.startswith("error: no NVIDIA driver")
    assert not done.stdout


def test_every_step_runs_on_what_stands_for_a_gpu(tmp_path: Path):
    require([HARNESS, GPU_LIBRARY, KERNELS])
    driver = os.environ.get("MOE_EXPORT_CUDA_DRIVER")
    if driver is None:
        pytest.skip("no driver stands for a GPU here")
    out = tmp_path / "report.json"
    variables = {"MOE_EXPORT_CUDA_DRIVER": driver, "MOE_EXPORT_PTX_MODULE": str(KERNELS)}
    done = check("--small", "--out", str(out), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    seen = {step["name"]: step["status"] for step in report["steps"]}
    # ONNX Runtime has no CUDA provider here, and TensorRT does not take the mock for a GPU: both
    # say so.
    assert seen == {
        "machine": "passed",
        "plugins": "passed",
        "ort-ops": "passed",
        "ort-provider": "not run",
        "engines": "not run",
        "speed": "passed",
    }
    for name in ("plugins", "ort-ops"):
        (step,) = (step for step in report["steps"] if step["name"] == name)
        assert step["counts"]["tests"] > 40
        assert step["counts"]["skipped"] == 0
    assert report["stand_in_driver"] == driver
