"""Commands in processes of their own, on chosen cores and before everything else that runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ERROR = re.compile(r"error\b.*:|ASSERT", re.IGNORECASE)


@dataclass(frozen=True)
class Finished:
    """What came of a command."""

    code: int
    output: str
    errors: str
    cpu_seconds: float
    """User and system, children included."""

    peak_mib: float
    """Of the largest of its processes."""


def run(
    command: Sequence[str | Path],
    *,
    cores: Sequence[int],
    environment: Mapping[str, str] | None = None,
    first: bool = False,
    limit: float = 3600,
) -> Finished:
    """Run to the end, or for ``limit`` seconds; ``first`` puts it before other work, where allowed.

    Reading the resources of a child that was waited for needs a process in between, since those of
    all children so far are one sum: the command is started by a shell's worth of Python.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".json") as costs:
        words = [
            "python3", "-S", "-c", _LAUNCHER, costs.name,
            ",".join(map(str, cores)), "1" if first else "0", *map(str, command),
        ]  # fmt: skip
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return Finished(124, "", f"longer than {limit:.0f} s", 0.0, 0.0)
        text = costs.read()
    spent: dict[str, Any] = json.loads(text) if text else {"cpu": 0.0, "peak": 0.0}
    return Finished(process.returncode, output, errors, spent["cpu"], spent["peak"])


# `sched_autogroup` shares the cores between sessions, so that niceness counts within one alone; a
# session's own weight is written to a file of it.  Only root may raise it.
_LAUNCHER = """
import json, os, resource, subprocess, sys
costs, cores, first, *command = sys.argv[1:]
os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
if first == "1":
    try:
        open("/proc/self/autogroup", "w").write("-19")
    except OSError:
        pass
code = subprocess.call(command)
spent = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(costs, "w") as file:
    json.dump({"cpu": spent.ru_utime + spent.ru_stime, "peak": spent.ru_maxrss / 1024}, file)
sys.exit(code if code >= 0 else 128 - code)
"""


def last_json(text: str) -> dict[str, Any] | None:
    """The last line of ``text``, where it is a JSON object or null; ``{}`` for null."""
    lines = text.strip().splitlines()
    with contextlib.suppress(json.JSONDecodeError, IndexError):
        found = json.loads(lines[-1])
        if found is None or isinstance(found, dict):
            return found or {}
    return None


def reason(finished: Finished) -> str:
    """Why a command failed: the last line that speaks of an error, else the last."""
    if finished.code in (124, 137, -9):
        return finished.errors.strip() if finished.code == 124 else "killed: out of memory"
    lines = [line.strip() for line in finished.errors.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)] or lines
    last = errors[-1] if errors else "it wrote nothing"
    return f"exit {finished.code}: {last[:300]}"
