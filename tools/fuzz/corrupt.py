"""Ways in which a bundle is damaged, or changed by somebody who can compute a hash.

Each takes the bundle's folder and a source of randomness, changes files, and says in words what it
did; ``Damage`` puts everything back.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "moe_export.json"
_ZEROS = "0" * 64


@dataclass
class Damage:
    """Changes of a bundle that are undone; for a ``with`` block."""

    root: Path
    _files: dict[Path, bytes] = field(default_factory=dict)
    _made: list[Path] = field(default_factory=list)

    def write(self, path: Path, content: bytes) -> None:
        """Put other bytes for a file."""
        self._keep(path)
        path.write_bytes(content)

    def remove(self, path: Path) -> None:
        self._keep(path)
        path.unlink()

    def make(self, path: Path, make: Callable[[Path], object]) -> None:
        """Put something where nothing was."""
        self._made.append(path)
        make(path)

    def _keep(self, path: Path) -> None:
        self._files.setdefault(path, path.read_bytes())

    def __enter__(self) -> Damage:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._made:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for path, content in self._files.items():
            path.write_bytes(content)


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def flipped_bits(damage: Damage, draw: random.Random) -> str:
    path = draw.choice([file for file in files_of(damage.root) if file.stat().st_size])
    content, count = bytearray(path.read_bytes()), draw.choice((1, 1, 1, 8, 64))
    for _ in range(count):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    damage.write(path, bytes(content))
    return f"{count} bits of {path.name}"


def truncated(damage: Damage, draw: random.Random) -> str:
    path = draw.choice([file for file in files_of(damage.root) if file.stat().st_size])
    content = path.read_bytes()
    length = draw.choice((0, len(content) - 1, draw.randrange(len(content))))
    damage.write(path, content[:length])
    return f"{path.name} cut to {length} of {len(content)} bytes"


def lengthened(damage: Damage, draw: random.Random) -> str:
    path = draw.choice(files_of(damage.root))
    damage.write(path, path.read_bytes() + draw.randbytes(draw.choice((1, 7, 4096))))
    return f"{path.name} made longer"


def swapped(damage: Damage, draw: random.Random) -> str:
    one, other = draw.sample(files_of(damage.root), 2)
    first, second = one.read_bytes(), other.read_bytes()
    damage.write(one, second)
    damage.write(other, first)
    return f"{one.name} and {other.name} in each other's place"


def overwritten(damage: Damage, draw: random.Random) -> str:
    path = draw.choice([file for file in files_of(damage.root) if file.stat().st_size])
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice((4, 64, 4096)))
    content[start:end] = bytes(end - start) if draw.random() < 0.5 else draw.randbytes(end - start)
    damage.write(path, bytes(content))
    return f"bytes {start} to {end} of {path.name}"


def removed(damage: Damage, draw: random.Random) -> str:
    path = draw.choice(files_of(damage.root))
    damage.remove(path)
    return f"{path.name} removed"


def something_else(damage: Damage, draw: random.Random) -> str:
    path = draw.choice(files_of(damage.root))
    folder = path.parent
    kind = draw.choice(("link", "pipe", "folder", "more", "socket name"))
    if kind == "more":
        damage.make(folder / "more.bin", lambda place: place.write_bytes(b"x"))
    elif kind == "folder":
        damage.make(folder / "more", lambda place: place.mkdir())
    elif kind == "socket name":
        damage.make(folder / "a\nb", lambda place: place.write_bytes(b"x"))
    else:
        damage.remove(path)
        outside = damage.root.parent / "outside"
        if kind == "pipe":
            damage.make(path, os.mkfifo)
        else:
            damage.make(outside, lambda place: place.write_bytes(b"outside"))
            damage.make(path, lambda place: place.symlink_to(outside))
    return f"a {kind} at {path.name}"


def manifest_bytes(damage: Damage, draw: random.Random) -> str:
    """Text of the manifest, its digest mended if it still has one."""
    path = damage.root / MANIFEST
    text = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 2, 5))):
        place = draw.randrange(len(text))
        letters = (
            b'"',
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"0",
            b"\\",
            b"\x00",
            b"\xff",
            b"e",
            b"-",
        )
        text[place : place + draw.choice((0, 1, 1, 9))] = draw.choice(letters)
    damage.write(path, _mended(bytes(text)))
    return "letters of the manifest"


def manifest_values(damage: Damage, draw: random.Random) -> str:
    """A value of the manifest, with a digest that fits."""
    path = damage.root / MANIFEST
    value = json.loads(path.read_bytes())
    place, key = draw.choice(list(_places(value)))
    old = place[key]
    what = draw.choice(("other", "removed", "more", "like another"))
    if what == "removed":
        del place[key]
    elif what == "more" and isinstance(place, dict):
        place[draw.choice(("x", "", "\u0130", "a" * 300))] = draw.choice(_VALUES)
    elif what == "like another":
        place[key] = copy.deepcopy(draw.choice([p[k] for p, k in _places(value)]))
    else:
        place[key] = _other(old, draw)
    text = json.dumps({**value, "digest": _ZEROS} if isinstance(value, dict) else value)
    damage.write(path, _mended(text.encode()))
    return f"{what} at {key!r:.60} of the manifest, which was {old!r:.60}"


_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**63 - 1,
    2**63,
    -(2**63),
    2**64,
    10**30,
    0.5,
    -0.0,
    1e308,
    "",
    "..",
    "../x",
    "/etc/passwd",
    "onnx/../moe_export.json",
    "MOE_EXPORT.JSON",
    "a\u0000b",
    "\u202e",
    "\u00df",
    "x" * 3000,
    [],
    {},
    [[]],
    [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]],
)


def _other(old: Any, draw: random.Random) -> Any:
    if isinstance(old, str) and old and draw.random() < 0.5:
        place = draw.randrange(len(old))
        return old[:place] + chr(draw.choice((0, 47, 65, 0x7F, 0xE9, 0x130, 0x1F600))) + old[place:]
    if isinstance(old, int) and not isinstance(old, bool) and draw.random() < 0.5:
        return old + draw.choice((-1, 1, 2**31, -(2**31)))
    return draw.choice(_VALUES)


def _places(value: Any) -> Any:
    """Every container and key of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _mended(text: bytes) -> bytes:
    """With the digest that fits, where it holds one or zeros for it."""
    try:
        digest = json.loads(text)["digest"]
        old = digest.encode() if len(digest) == 64 else b""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return text
    if not old:
        return text
    blank = text.replace(old, _ZEROS.encode())
    return blank.replace(_ZEROS.encode(), hashlib.sha256(blank).hexdigest().encode())


DAMAGES: tuple[Callable[[Damage, random.Random], str], ...] = (
    flipped_bits,
    truncated,
    lengthened,
    swapped,
    overwritten,
    removed,
    something_else,
)
"""What happens to files; such a bundle is to be refused."""

LIES: tuple[Callable[[Damage, random.Random], str], ...] = (manifest_bytes, manifest_values)
"""What somebody writes; such a bundle may be as good as another, if all readers say so."""
