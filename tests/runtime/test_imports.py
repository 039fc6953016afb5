from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

WORKSHOP = {"torch", "onnx", "onnx_ir", "onnxscript", "transformers", "ml_dtypes", "jinja2"}
# What the program and the tests need, and running a bundle does not.
BESIDE = {"click", "safetensors"}

IMPORTS = [
    "import moe_export",
    "import moe_export.runtime",
    "from moe_export.runtime import Bundle, Generator, Session",
    "import moe_export.manifest",
    "from moe_export import Answer, Bundle, Generator, Options, Request, Session",
    "import moe_export.validate",
    "import moe_export.pytest_plugin",
]

SHUT = """
import sys
class Shut:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[2:]):
            raise ModuleNotFoundError(f"{name} is shut out", name=name)
sys.meta_path.insert(0, Shut())
"""

RUN = """
import asyncio, sys
import moe_export, numpy as np
dark = np.zeros((2, 2), np.uint8)
with moe_export.Generator(sys.argv[1]) as generator:
    assert generator.generate(dark, "which digit").text == "seven"
    assert list(generator.stream(dark, "which digit", temperature=1, seed=1))
    generator.generate_batch([moe_export.Request(image=dark, prompt="digit")] * 2)
    assert asyncio.run(generator.agenerate(dark, "which digit")).text == "seven"
with moe_export.Session(sys.argv[1], graph="probe") as session:
    for case in session.bundle.golden().cases:
        assert all(array.dtype for array in case.inputs.values())
"""


def modules_after(code: str, *arguments: str) -> set[str]:
    report = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code + report, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return set(result.stdout.split())


@pytest.mark.parametrize("code", IMPORTS)
def test_what_runs_bundles_imports_nothing_of_the_workshop(code):
    assert not modules_after(code) & (WORKSHOP | BESIDE)


def test_answering_a_question_imports_nothing_of_the_workshop(bigram):
    modules = modules_after(RUN, str(bigram.path))
    assert "onnxruntime" in modules
    assert not modules & (WORKSHOP | BESIDE)


def test_sessions_and_generators_run_where_nothing_else_can_be_imported(bigram):
    modules_after(SHUT + RUN, str(bigram.path), *sorted(WORKSHOP | BESIDE))


def test_the_package_asks_for_what_runs_bundles_and_nothing_else():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=!]", each)[0] for each in project["dependencies"]}
    assert names == {"numpy", "onnxruntime", "pillow", "tokenizers"}


def test_the_program_says_what_it_lacks():
    code = "from moe_export.cli import main\nmain()"
    command = [sys.executable, "-c", SHUT + code, "", "click"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 5
    assert result.stdout == ""
    assert "needs the package click" in result.stderr
    assert "hint: pip install 'moe-export[cli]'" in result.stderr
