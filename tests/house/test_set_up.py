"""What a bare machine meets first: make, the set-up script, and what the CI calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from house.pages import ROOT


def run(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    # Under `make test` a make that is started here would take itself for a part of that one.
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    env = {k: v for k, v in os.environ.items() if k not in outer} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture
def bare_checkout(tmp_path) -> Path:
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_bare_make_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: ([a-z-]+)$", makefile, flags=re.MULTILINE))
    shown = run("make", "--no-print-directory").stdout
    assert set(re.findall(r"^  ([a-z-]+) ", shown, flags=re.MULTILINE)) == targets
    assert {"test", "demo"} <= targets


def test_a_python_that_is_too_old_is_named(bare_checkout):
    old = bare_checkout / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")  # what an old one answers when asked for its version
    old.chmod(0o755)
    result = run("tools/setup.sh", cwd=bare_checkout, PYTHON=str(old))
    assert result.returncode == 5
    assert f"PYTHON={old}" in result.stderr
    assert not (bare_checkout / ".venv").exists()


def test_set_up_a_second_time_does_nothing(bare_checkout):
    """A stamp of the same sources at the same place, and a Python that works, are enough."""
    command = "{ pwd; cat pyproject.toml tools/setup.sh; } | sha256sum | cut -d' ' -f1"
    made_from = run("bash", "-c", command, cwd=bare_checkout).stdout
    python = bare_checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    (bare_checkout / ".venv/made-from").write_text(made_from)
    result = run("tools/setup.sh", cwd=bare_checkout, PYTHON="/nonexistent")
    assert (result.returncode, result.stderr) == (0, "")

    (bare_checkout / "pyproject.toml").write_text("# something else\n")
    assert run("tools/setup.sh", cwd=bare_checkout, PYTHON="/nonexistent").returncode == 5


PYTHON_WITHOUT_VENV = """#!/bin/sh
case "$*" in
  *ensurepip*) test -e "$STUBS/installed" ;;
  *sys.exit*) ;;
  *version_info*) echo 3.11 ;;
  "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip --version") test -e "$STUBS/installed" ;;
  "-m pip install"*) echo "$*" >>"$STUBS/pip" ;;
esac
"""
APT_GET = """#!/bin/sh
echo "$* ($DEBIAN_FRONTEND)" >>"$STUBS/apt"
case "$*" in *install*) touch "$STUBS/installed" ;; esac
"""


@pytest.fixture
def debian(tmp_path, monkeypatch) -> Path:
    """A folder of programs that stand for Debian's: a Python without venv, apt-get, an id."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    programs = {"python3.11": PYTHON_WITHOUT_VENV, "apt-get": APT_GET, "id": "#!/bin/sh\necho 0\n"}
    for name, text in programs.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    monkeypatch.setenv("STUBS", str(stubs))
    monkeypatch.setenv("PATH", f"{stubs}:/usr/bin:/bin")
    return stubs


def test_a_missing_venv_is_installed_and_pytorch_comes_first(bare_checkout, debian):
    result = run("tools/setup.sh", cwd=bare_checkout, PYTHON="")
    assert result.returncode == 0, result.stderr
    update, install = (debian / "apt").read_text().splitlines()
    assert "update" in update
    assert "install" in install
    assert "python3.11-venv (noninteractive)" in install
    torch, project = (debian / "pip").read_text().splitlines()
    assert "torch==" in torch
    assert ".[export,report,transformers,dev]" in project


def test_without_root_or_a_silent_sudo_set_up_says_what_to_install(bare_checkout, debian):
    (debian / "id").write_text("#!/bin/sh\necho 1000\n")
    (debian / "sudo").write_text("#!/bin/sh\nexit 1\n")
    (debian / "sudo").chmod(0o755)
    result = run("tools/setup.sh", cwd=bare_checkout, PYTHON="")
    assert result.returncode == 5
    assert "hint: sudo apt-get install python3.11-venv" in result.stderr
    assert not (debian / "apt").exists()


@pytest.fixture
def without_browser(debian, monkeypatch) -> Path:
    """Debian's programs of ``debian`` and what a script needs; no Chromium."""
    for name in ("bash", "dirname", "env"):
        (debian / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(debian))
    return debian


def test_a_missing_browser_is_installed(bare_checkout, without_browser):
    result = run("tools/browser.sh", cwd=bare_checkout)
    assert result.returncode == 0, result.stderr
    assert "chromium" in (without_browser / "apt").read_text()


def test_a_browser_that_cannot_be_installed_stops_nothing_and_is_said(
    bare_checkout, without_browser
):
    (without_browser / "apt-get").unlink()
    result = run("tools/browser.sh", cwd=bare_checkout)
    assert result.returncode == 0
    assert "chromium fonts-dejavu-core missing" in result.stderr
    assert "tests of pages will be skipped" in result.stderr


def test_ci_hands_on_the_status_of_make_test_and_gives_it_no_input(tmp_path):
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(
        'test:\n\t@echo "CI is $$CI, input: $$(cat)."; echo "3 failed in 2.10s"; exit 1\n'
    )
    result = run(".ci/run", cwd=tmp_path)
    assert result.returncode != 0
    assert result.stdout == "CI is true, input: .\n3 failed in 2.10s\n"


@pytest.mark.parametrize("script", ["tools/setup.sh", "tools/runtime-only.sh", "Makefile"])
def test_where_packages_come_from_is_left_to_the_machine(script):
    """Mirrors, proxies and CPU builds are configured in pip, not here."""
    assert not re.search(r"index-url|find-links|https?://", (ROOT / script).read_text())
