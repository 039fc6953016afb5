"""What a terminal sees, and what a pipe does."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

PROGRAM = [sys.executable, "-m", "moe_export.cli"]


def on_terminal(*words, **environment):
    """What a person sees, standard output and error on one terminal, and the exit status."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    seen = bytearray()
    try:
        while block := os.read(ours, 4096):
            seen += block
    except OSError:
        pass  # how Linux says that the other side is closed
    os.close(ours)
    return seen.decode(), child.wait()


@pytest.fixture(autouse=True)
def _colour_is_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_terminal_sees_stages_and_colour(bundle):
    seen, status = on_terminal("validate", bundle)
    assert status == 0
    assert "[1/1] validate" in seen
    assert "\x1b[32m\x1b[1mpassed\x1b[0m:" in seen


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_is_left_out_where_it_is_not_wanted(environment):
    seen, status = on_terminal("model.pt", "--target", "coreml", **environment)
    assert status == 2
    assert "error:" in seen
    assert "\x1b" not in seen


def test_a_reader_that_goes_away_ends_the_program_quietly(bundle):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([*PROGRAM, "inspect", bundle], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert result.returncode == 141
    assert result.stderr == b""
