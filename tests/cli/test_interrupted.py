"""Ctrl-C, SIGTERM and SIGKILL at any stage: what lay at the output lies there as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bundle.toy import export, linear_model
from moe_export.bundle.staging import staging
from moe_export.cli.program import INTERRUPTED, TERMINATED
from moe_export.runtime import Bundle

TESTS = Path(__file__).parents[1]

FACTORY = """
import torch
from zoo import RECOGNISED

def block():
    case = next(case for case in RECOGNISED if case.name == "mixtral_like")
    return case.build(), (torch.randn(case.input_shape),)
"""

# The program, which has done a stage, says so, and waits for the signal: in code that was compiled
# at run time, as tracing runs it, and again and again, because a signal that comes just before a
# thread begins to wait does not end the waiting.
PROGRAM = """
import sys, threading
from moe_export import pipeline
from moe_export.cli import main

name, *sys.argv[1:] = sys.argv[1:]
stage = getattr(pipeline, name)

def stopped(*args, **words):
    stage(*args, **words)
    print("done", flush=True)
    exec("for _ in range(1000): threading.Event().wait(0.1)")
    sys.exit("no signal came")

setattr(pipeline, name, stopped)
main()
"""


@pytest.fixture
def folder(tmp_path):
    """An empty one for temporary files, one for the output, and one for the model's code."""
    for name in ("scratch", "bundles", "code"):
        (tmp_path / name).mkdir()
    (tmp_path / "code/one_block.py").write_text(FACTORY)
    export(linear_model(), tmp_path / "bundles/out")
    return tmp_path


def stopped_at(stage, folder, number):
    """The exit status, and what was said, of an export that a signal met at the end of a stage."""
    words = ["one_block:block", "-o", "bundles/out", "--python-path", "code", "--force"]
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, stage, *words, "--precision", "int8"],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(TESTS),
            "TMPDIR": str(folder / "scratch"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        done = child.stdout.readline()
        child.send_signal(number)
        _, stderr = child.communicate()
    assert done == "done\n", stderr
    return child.returncode, stderr


def scratch(folder):
    """Temporary files that are left, but for those that PyTorch and ONNX Runtime keep there."""
    prefix = tempfile.gettempprefix()
    return [path for path in (folder / "scratch").iterdir() if path.name.startswith(prefix)]


@pytest.mark.parametrize(
    ("stage", "number", "status", "said"),
    [
        ("load", signal.SIGINT, INTERRUPTED, "interrupted\n"),
        ("capture", signal.SIGTERM, TERMINATED, "terminated\n"),
        ("bundle", signal.SIGINT, INTERRUPTED, "interrupted\n"),
        ("validate", signal.SIGTERM, TERMINATED, "terminated\n"),
    ],
)
def test_an_interrupted_export_leaves_nothing_behind(folder, stage, number, status, said):
    before = Bundle.open(folder / "bundles/out").manifest.digest
    assert stopped_at(stage, folder, number) == (status, said)
    assert [path.name for path in (folder / "bundles").iterdir()] == ["out"]
    assert scratch(folder) == []
    assert Bundle.open(folder / "bundles/out").manifest.digest == before


def test_what_a_killed_export_leaves_is_swept_away_by_the_next(folder):
    output = folder / "bundles/out"
    before = Bundle.open(output).manifest.digest
    status, _ = stopped_at("validate", folder, signal.SIGKILL)
    assert status == -signal.SIGKILL
    names = {path.name.partition("-")[0] for path in output.parent.iterdir()}
    assert names == {"out", ".out.partial"}
    assert scratch(folder) == []
    assert Bundle.open(output).manifest.digest == before
    with staging(output, force=True):
        pass
    assert list(output.parent.iterdir()) == [output]


def test_who_ignores_sigterm_goes_on_doing_so(invoke):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert invoke("--version").exit_code == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert invoke("--version").exit_code == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
