"""Numbers and tables for people: one way to write a size, a share, a duration."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_COUNTS = ("", " K", " M", " B", " T")


def size(count: float) -> str:
    """Bytes in the unit that leaves one to four digits: ``2.2 MiB``."""
    return _scaled(count, 1024, _BYTES, " ")


def count(number: float) -> str:
    """A number of things in thousands, millions or billions: ``1.44 B``."""
    return _scaled(number, 1000, _COUNTS, "")


def share(part: float) -> str:
    """A part of one in per cent.  Only the whole is ``100 %``."""
    if not math.isfinite(part):
        return "unknown"
    if part >= 1.0:
        return "100 %"
    return f"{math.floor(part * 10_000) / 100:.2f} %"


def error(number: float) -> str:
    """An error or a tolerance, which span many powers of ten."""
    return f"{number:.1e}" if number else "0"


def plural(number: int, thing: str) -> str:
    """``1 block``, ``2 blocks``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def printable(text: str) -> str:
    """``text`` with what is no letter, such as a NUL, as Python writes it: XML cannot say it."""
    return "".join(
        letter if letter.isprintable() or letter in "\t\n" else repr(letter)[1:-1]
        for letter in text
    )


def columns(rows: Sequence[Sequence[str]], *, left: int = 1, indent: str = "  ") -> list[str]:
    """Rows of words as aligned lines; the first ``left`` columns stand left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent
        + "  ".join(
            word.ljust(width) if place < left else word.rjust(width)
            for place, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _scaled(number: float, base: int, units: Sequence[str], gap: str) -> str:
    power = 0
    while number >= base and power < len(units) - 1:
        number /= base
        power += 1
    digits = f"{number:.0f}" if not power or number >= 100 else f"{number:.3g}"
    return f"{digits}{gap}{units[power]}"
