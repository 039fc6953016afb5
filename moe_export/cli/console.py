"""What is said and where: data on standard output, talk on standard error."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from moe_export.errors import MoeExportError


@dataclass
class Console:
    """The two streams of one invocation.  ``verbose`` is set by ``-v`` before a command runs."""

    verbose: bool = False

    def out(self, text: str = "") -> None:
        """Data for people.  Text that a file brought cannot steer the terminal."""
        _write(sys.stdout, _printable(text) + "\n", None)

    def verdict(self, text: str, *, passed: bool) -> None:
        """The verdict's word, then what it is about."""
        _write(sys.stdout, "passed" if passed else "failed", "green" if passed else "red")
        self.out(f": {text}")

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Labelled facts."""
        width = max(len(label) for label, _ in rows)
        for label, words in rows:
            self.out(f"  {label.ljust(width)}  {words}")

    def json(self, value: Any) -> None:
        """Data for programs: one JSON value, as ``strict_json`` writes it."""
        from moe_export.strict_json import render

        _write(sys.stdout, render(_finite(value)), None)

    def raw(self, text: str) -> None:
        """Data for programs that is text already."""
        _write(sys.stdout, text, None)

    def piece(self, text: str) -> None:
        """A part of an answer, at once and as the model wrote it."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Talk that no program reads."""
        _write(sys.stderr, _printable(text) + "\n", None)

    def warn(self, text: str) -> None:
        """Something that went another way than the user may think."""
        self._labelled("warning", text, "yellow")

    def fail(self, error: MoeExportError) -> None:
        """``error:``, ``at:`` and ``hint:``; with ``-v`` the chain of causes above them."""
        if self.verbose:
            _write(sys.stderr, "".join(traceback.format_exception(error)), None)
        self._labelled("error", error.message, "red")
        for label, words in (("at", error.where), ("hint", error.hint)):
            if words:
                self._labelled(label, words, None)

    @contextmanager
    def stages(self, names: Sequence[str]) -> Iterator[Stages]:
        """Progress through ``names``, shown on a terminal only.

        Meanwhile libraries keep their warnings to themselves unless ``-v`` asks for them: they are
        about their own insides and not about the model.
        """
        stages = Stages(names, visible=sys.stderr.isatty())
        with warnings.catch_warnings():
            if not self.verbose:
                warnings.simplefilter("ignore")
            try:
                yield stages
            finally:
                stages.end()

    def _labelled(self, label: str, text: str, colour: str | None) -> None:
        _write(sys.stderr, f"{label}:", colour)
        _write(sys.stderr, f" {_printable(text)}\n", None)


class Stages:
    """One line for each stage: its name while it runs, and the seconds it took."""

    def __init__(self, names: Sequence[str], *, visible: bool) -> None:
        self._names = names
        self._visible = visible
        self._line = ""
        self._began = 0.0

    def __call__(self, stage: str) -> None:
        """``stage`` begins, and whatever ran before has ended."""
        self.end()
        width = max(map(len, self._names))
        number = self._names.index(stage) + 1
        self._line = f"[{number}/{len(self._names)}] {stage.ljust(width)}"
        self._began = time.monotonic()
        self._show(f"{self._line} …")

    def end(self) -> None:
        """The last stage has ended."""
        if self._line:
            self._show(f"\r{self._line}  {time.monotonic() - self._began:6.1f} s\n")
            self._line = ""

    def _show(self, text: str) -> None:
        if self._visible:
            sys.stderr.write(text)
            sys.stderr.flush()


def _write(stream: IO[str], text: str, colour: str | None) -> None:
    if colour is not None and _has_colour(stream):
        text = click.style(text, fg=colour, bold=True)
    stream.write(text)
    stream.flush()


def _has_colour(stream: IO[str]) -> bool:
    # NO_COLOR counts when it is set and not empty: https://no-color.org
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


def _printable(text: str) -> str:
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )


def _finite(value: Any) -> Any:
    """``value`` with ``"NaN"`` and ``"Infinity"`` for what JSON has no number for."""
    from moe_export.strict_json import encode

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [plain(inner) for inner in item]
        if isinstance(item, float) and item - item != 0:
            return "NaN" if item != item else "Infinity" if item > 0 else "-Infinity"
        return item

    return plain(encode(value))
