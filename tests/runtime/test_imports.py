from __future__ import annotations

import subprocess
import sys

import pytest

WORKSHOP = {"torch", "onnx", "onnx_ir", "onnxscript", "transformers"}

IMPORTS = [
    "import moe_export",
    "import moe_export.runtime",
    "from moe_export.runtime import Bundle, Generator, Session",
    "import moe_export.manifest",
]

RUN = """
from moe_export.runtime import Generator, Session
import numpy as np, sys
generator = Generator(sys.argv[1])
generator.generate(np.zeros((2, 2), np.uint8), "which digit")
Session(sys.argv[1], graph="probe").bundle.golden()
"""


def modules_after(code: str, *arguments: str) -> set[str]:
    report = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code + report, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return set(result.stdout.split())


@pytest.mark.parametrize("code", IMPORTS)
def test_what_runs_bundles_imports_nothing_of_the_workshop(code):
    assert not modules_after(code) & WORKSHOP


def test_answering_a_question_imports_nothing_of_the_workshop(bigram):
    modules = modules_after(RUN, str(bigram.path))
    assert "onnxruntime" in modules
    assert not modules & WORKSHOP
