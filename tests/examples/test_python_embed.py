"""The example of a Python program, where the workshop cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from bundle.toy import bigram_model, export

EXAMPLE = Path(__file__).parents[2] / "examples" / "python_embed" / "answer.py"

# As `python answer.py`, with what a service does not install shut out.
SHUT_OUT = """
import runpy, sys
for name in ("torch", "onnx", "onnxscript", "onnx_ir", "transformers", "click", "safetensors"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("embed") / "toy.moe"
    export(bigram_model(), path)
    return path


def ask(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SHUT_OUT, str(EXAMPLE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_answers_about_an_image(bundle, tmp_path):
    for value, answer, told in ((0, "seven", "1 tokens"), (255, "nine or so", "3 tokens")):
        PIL.Image.fromarray(np.full((2, 2), value, np.uint8)).save(tmp_path / "x.png")
        result = ask(bundle, tmp_path / "x.png", "which digit")
        assert (result.returncode, result.stdout) == (0, answer)
        assert result.stderr == f"\n({told}, stop)\n"


def test_an_error_is_told_and_is_the_status(bundle, tmp_path):
    result = ask(bundle, tmp_path / "nothing.png", "which digit")
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no such image\nat: ")
    assert ask(tmp_path, "x.png", "?").returncode == 2


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 30
