"""The C++ runtime and the programs of its tests, built by the first test that asks for one.

That takes some minutes once, in ``build/native``, where ``tools/native.sh`` builds too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "native"

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
"""Where tools are: CMake and Ninja may be those of the package index."""


@cache
def built(target: str, *more: str) -> Path:
    """A program or library of ``plugins/tests/runtime``, with ``more`` options for CMake."""
    for tool in ("cmake", "ninja"):
        if shutil.which(tool, path=PATH) is None:
            pytest.skip(f"the C++ runtime is built with {tool}, which is not here")
    asked = ("WERROR", "TESTS", "RUNTIME")  # as tools/native.sh asks, or all is compiled again
    options = [word for name in asked for word in ("-D", f"MOE_EXPORT_{name}=ON")] + [*more]
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", *options]
    build = ["cmake", "--build", str(BUILD), "--target", target]
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        for command in (configure, build):
            ran = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PATH": PATH},
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
    folder = BUILD / "plugins" / "tests" / "runtime"
    library = folder / f"lib{target}.so"
    return library if library.exists() else folder / target
