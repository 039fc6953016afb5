"""Strings that end an answer, looked for in text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Text up to the first of some strings; nothing is let go that may be a string's beginning."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """What is certain to be in front of any of the strings, now that ``piece`` came."""
        if not self._strings:
            return piece
        text = self._held + piece
        places = [place for each in self._strings if (place := text.find(each)) >= 0]
        if places:
            self._held, self.found = "", True
            return text[: min(places)]
        certain = len(text) - max(_begun(text, each) for each in self._strings)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """What was held back, once nothing follows."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, string: str) -> int:
    """How many of its letters, not all, ``text`` ends with."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
