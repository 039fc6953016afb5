"""Help and everything that needs a bundle alone work without PyTorch and ONNX."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

WORKSHOP = {"torch", "onnx", "onnx_ir", "onnxscript", "transformers"}

REPORT = """
import sys
from moe_export.cli import main
try:
    main()
except SystemExit as done:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
    sys.exit(done.code)
"""


def modules_after(*words):
    command = [sys.executable, "-c", REPORT, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("export", "--help"), ()])
def test_help_imports_neither_torch_nor_onnx_nor_what_runs_bundles(words):
    assert not modules_after(*words) & (WORKSHOP | {"onnxruntime", "PIL", "tokenizers"})


@pytest.mark.parametrize("command", ["validate", "inspect"])
def test_looking_at_a_bundle_imports_neither_torch_nor_onnx(command, bundle):
    assert not modules_after(command, bundle) & WORKSHOP


def test_reading_reports_imports_neither_torch_nor_onnx(bundle, tmp_path):
    page = tmp_path / "report.html"
    assert not modules_after("report", bundle, "-o", page) & WORKSHOP
    assert not modules_after("diff", bundle, bundle) & (WORKSHOP | {"jinja2", "vl_convert"})


def test_measuring_a_bundle_imports_neither_torch_nor_onnx(bundle):
    assert not modules_after("bench", bundle, "--seconds", 0.05) & WORKSHOP


def test_running_a_bundle_imports_neither_torch_nor_onnx(bundle, tmp_path):
    inputs = tmp_path / "in.npz"
    np.savez(inputs, image=np.ones((1, 2, 2), np.float32), tokens=np.ones((1, 3), np.int64))
    assert not modules_after("run", bundle, "--inputs", inputs) & WORKSHOP
