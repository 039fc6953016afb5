"""Asking the isolated reader about a file: start it, bound it, and parse what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from moe_export.errors import MissingEnvironmentError, UnsafeInputError
from moe_export.load import isolated

# Importing PyTorch from a cold disk takes up to a minute; the child's own CPU limit is 60 s more.
_TIMEOUT = 300  # seconds


def refusal(path: Path, reason: str) -> UnsafeInputError:
    """The error for a checkpoint that is not read any further."""
    return UnsafeInputError(f"the checkpoint is refused: {reason}", where=str(path))


def ask_child(file: BinaryIO, path: Path) -> dict[str, Any]:
    """What ``isolated.py`` says of ``file``; its answer is bounded by the child's own limits."""
    torch_folder = Path(torch.__file__).parents[1]
    command = [sys.executable, "-I", "-B", "-W", "ignore", isolated.__file__, str(torch_folder)]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as talk:
        try:
            status = subprocess.run(
                command,
                stdin=file,
                stdout=answer,
                stderr=talk,
                env=_child_environment(),
                cwd="/",
                timeout=_TIMEOUT,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise refusal(path, f"reading it takes longer than {_TIMEOUT} s") from error
        talk.seek(0)
        last_words = talk.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        if status == isolated.NO_TORCH:
            raise MissingEnvironmentError(
                f"PyTorch cannot be imported in an isolated interpreter: {last_words}",
                hint="install it into the environment that moe-export runs in",
            )
        if status:
            raise refusal(path, _reason(status, last_words))
        answer.seek(0)
        return parse_answer(answer.read(), path)


def parse_answer(text: bytes, path: Path) -> dict[str, Any]:
    """The child's JSON object; ``UnsafeInputError`` for anything else."""
    try:
        answer = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refusal(path, f"its contents are not plain data ({error})") from error
    if not isinstance(answer, dict):
        raise refusal(path, "its contents could not be told")
    return answer


def _child_environment() -> dict[str, str]:
    # LD_LIBRARY_PATH may be how PyTorch's own libraries are found.
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}


def _reason(status: int, last_words: str) -> str:
    if status < 0:
        return f"its reader was stopped by {signal.Signals(-status).name}"
    printable = "".join(letter for letter in last_words if letter.isprintable())
    return printable[:300] or f"its reader ended with status {status}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
