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
    own_bytes: int


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


# The program, and behind it its peak memory as the kernel kept it, and without pages of files as it
# was seen now and then.  What the parent learns when it waits (``ru_maxrss``) would count the
# parent's own memory, which a forked child starts with.
_MEASURED = """
import re, sys, threading
from moe_export.budget import memory_in_use
from moe_export.cli import main
peak, *sys.argv[1:] = sys.argv[1:]
ended, seen = threading.Event(), [0]

def look():
    while not ended.wait(0.02):
        seen[0] = max(seen[0], memory_in_use())

looking = threading.Thread(target=look)
looking.start()
try:
    main()
finally:
    ended.set()
    looking.join()
    status = open("/proc/self/status").read()
    kilobytes = re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]
    open(peak, "w").write(f"{kilobytes} {seen[0] // 1024}")
"""


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory):
    """What the bare form makes: no command, no ``-o``."""
    peak = tmp_path_factory.mktemp("peak") / "kilobytes"
    words = [str(peak), checkpoint.name, "--python-path", str(MODELS)]
    child = subprocess.run(
        [sys.executable, "-c", _MEASURED, *words],
        cwd=checkpoint.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    peak_bytes, own_bytes = (int(kilobytes) * 1024 for kilobytes in peak.read_text().split())
    bundle = checkpoint.with_suffix(".moe")
    return Export(bundle, child.stdout, child.stderr, peak_bytes, own_bytes)


@pytest.fixture(scope="session")
def rounded(checkpoint, tmp_path_factory):
    """The same model with its experts in int8, by the program."""
    output = tmp_path_factory.mktemp("rounded") / "b.moe"
    words = [str(checkpoint), "-o", str(output), "--python-path", str(MODELS)]
    path = list(sys.path)
    result = CliRunner().invoke(program, [*words, "--precision", "int8:64"])
    sys.path[:] = path
    sys.modules.pop("tiny_vlm", None)
    assert result.exit_code == 0, result.stderr
    return output, result.stdout


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
