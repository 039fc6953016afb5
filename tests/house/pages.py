"""The blocks of a Markdown page that are marked to be run.

A page marks a fenced block in its info string, behind the language:

* ``python file=NAME`` is written to NAME in the page's folder,
* ``python run`` is run there by this interpreter and must succeed,
* ``console run`` holds commands behind ``$``, each followed by the very output it must print
  (both streams); a line of ``…`` stands for any lines, ``…`` within a line for any text.

All blocks of a page share one folder and run from top to bottom.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w+) (run|file=(\S+))\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One marked block; ``file`` is set where it is to be written and not run."""

    language: str
    text: str
    file: str | None


def blocks(page: Path) -> list[Block]:
    """The marked blocks of ``page`` in its order."""
    return [
        Block(language=language, text=text, file=file or None)
        for language, _, file, text in _FENCE.findall(page.read_text())
    ]


def run_page(page: Path, folder: Path) -> None:
    """Run every marked block of ``page`` in ``folder``; ``AssertionError`` for what is not so."""
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            _run([sys.executable, "-c", block.text], folder)
        else:
            for command, expected in _commands(block.text):
                printed = _run(["bash", "-c", command], folder)
                assert matches(expected, printed), f"$ {command}\n{printed}\n--- not\n{expected}"


def matches(expected: str, printed: str) -> bool:
    """Whether ``printed`` is what a block shows, ``…`` standing for whatever is there."""
    # A page may align columns as it likes; words and their order are what is promised.
    lines = [_words(line) for line in expected.strip().split("\n")]
    patterns = [
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
        for line in lines
    ]
    text = "".join(f"{_words(line)}\n" for line in printed.strip().split("\n"))
    return re.fullmatch("".join(patterns), text) is not None


def _words(line: str) -> str:
    return " ".join(line.split())


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\"):
            more, _, output = output.partition("\n")
            command = command.removesuffix("\\") + more.lstrip("> ")
        yield command, output


def _run(command: list[str], folder: Path) -> str:
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "NO_COLOR": "1"}
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    shown = command[-1] if command[0] == "bash" else f"the block\n{command[-1]}"
    # `; echo $?` is how a page shows that something fails; a bare failure is a mistake.
    assert result.returncode == 0, f"{shown}\nexited with {result.returncode}:\n{result.stdout}"
    return result.stdout
