"""One tiny model, exported once by the real program in a process of its own."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_export.cli import program
from moe_export.manifest import FILE_NAME, FileRecord, Manifest

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Export:
    """A bundle, what was said while it was made, and what that cost."""

    bundle: Path
    stdout: str
    stderr: str
    peak_bytes: int


@pytest.fixture(autouse=True)
def _own_path(monkeypatch):
    """``--python-path`` changes ``sys.path`` for good; not for the next test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("tiny_vlm", None)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "tiny.pt"
    sys.path.insert(0, str(MODELS))
    try:
        importlib.import_module("tiny_vlm").save(path)
    finally:
        sys.path.remove(str(MODELS))
        sys.modules.pop("tiny_vlm", None)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint):
    """What the bare form makes: no command, no ``-o``."""
    command = [sys.executable, "-m", "moe_export.cli", checkpoint.name, "--python-path", MODELS]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=checkpoint.parent, env=environment, **streams) as child:
        # What it says fits into the pipes' buffers; to read it before it ends would reap it.
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        stdout, stderr = child.stdout.read(), child.stderr.read()
    assert child.returncode == 0, stderr
    return Export(checkpoint.with_suffix(".moe"), stdout, stderr, used.ru_maxrss * 1024)


@pytest.fixture
def bundle(exported):
    return str(exported.bundle)


@pytest.fixture
def invoke():
    """Run a command line in this process; the result has ``exit_code``, ``stdout``, ``stderr``."""

    def run(*words, **environment):
        return CliRunner(env=environment).invoke(program, [str(word) for word in words])

    return run


@pytest.fixture
def python_path():
    return ("--python-path", MODELS)


@pytest.fixture
def named(python_path):
    """The same model by its factory's name, which costs no second process."""
    return ("tiny_vlm:tiny", *python_path)


@pytest.fixture
def spoiled(exported, tmp_path):
    """A bundle with its first weight changed and every digest rewritten to match."""
    path = tmp_path / "spoiled.moe"
    shutil.copytree(exported.bundle, path)
    manifest = Manifest.from_json((path / FILE_NAME).read_bytes())
    data = manifest.components["model"].data
    content = bytearray((path / data).read_bytes())
    content[3:320:4] = bytes(byte ^ 0x40 for byte in content[3:320:4])  # the exponents of embed
    (path / data).write_bytes(content)
    record = FileRecord(sha256=sha256(content).hexdigest(), bytes=len(content))
    changed = replace(manifest, files={**manifest.files, data: record})
    (path / FILE_NAME).write_text(changed.to_json())
    return str(path)
