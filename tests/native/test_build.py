"""What a machine without the means to build is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from house.pages import ROOT


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture
def machine(tmp_path) -> Path:
    """A checkout, and beside it a ``bin`` with what a system without compilers still has."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "tools", checkout / "tools")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "sed", "sort", "nproc", "mktemp", "rm", "cat", "ln"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "id").write_text("#!/bin/sh\necho 0\n")
    # Notes what it is asked for, and provides the compiler that it is asked to install.
    (programs / "apt-get").write_text(
        f'#!/bin/sh\necho "$*" >>"{tmp_path}/apt"\nln -sf /bin/true "{programs}/c++"\n'
    )
    (programs / "env").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    pip = checkout / ".venv/bin/python"
    pip.parent.mkdir(parents=True)
    # Stands for a pip that finds no package index.
    pip.write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/pip"\nexit 1\n')
    for program in (programs / "id", programs / "apt-get", programs / "env", pip):
        program.chmod(0o755)
    return tmp_path


def test_a_missing_compiler_comes_from_the_system_and_cmake_from_the_package_index(machine):
    (machine / "bin" / "true").symlink_to("/bin/true")
    result = run("tools/native.sh", "library", cwd=machine / "checkout", PATH=f"{machine}/bin")
    assert result.returncode != 0
    update, install = (machine / "apt").read_text().splitlines()
    assert "update" in update
    assert install.endswith(" g++")
    assert (machine / "pip").read_text().endswith("cmake>=3.20 ninja\n")


def test_a_build_without_a_compiler_says_what_to_install(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on this machine")
    result = run("cmake", "-S", str(ROOT), "-B", str(tmp_path), cwd=ROOT, CXX="/nonexistent/c++")
    assert result.returncode != 0
    assert "found no C++ compiler" in result.stderr
    assert "apt-get install g++" in result.stderr


def test_the_script_knows_what_it_can_build():
    result = run("tools/native.sh", "everything", cwd=ROOT)
    assert result.returncode == 2
    assert "everything" in result.stderr
