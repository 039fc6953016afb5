"""What the demo made before is used again while what it was made from stays the same."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Wall time and the most memory that a process had."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Made:
    """A product: the digest of what it was made from, and what making it cost."""

    key: str
    seconds: float
    peak_bytes: int
    reused: bool = False


def kept_or_made(product: Path, made_from: Iterable[Path | str], make: Callable[[], Cost]) -> Made:
    """``product`` as it lies there if it was made from the same, else by ``make``.

    ``made_from`` are files, whose names and contents count, and words.
    """
    record = product.with_name(f".{product.name}.made-from.json")
    key = digest(made_from)
    if product.exists() and record.exists():
        before = Made(**json.loads(record.read_text()))
        if before.key == key:
            print(f"{product} is up to date", file=sys.stderr)
            return replace(before, reused=True)
    if product.exists():
        print(f"{product} was made from something else: making it anew", file=sys.stderr)
    record.unlink(missing_ok=True)
    now = Made(key=key, **asdict(make()))
    record.write_text(json.dumps(asdict(now)))
    return now


def digest(parts: Iterable[Path | str]) -> str:
    """SHA-256 over words, and over the names and contents of files, in their order."""
    sha = hashlib.sha256()
    for part in parts:
        name, content = (part.name, part.read_bytes()) if isinstance(part, Path) else (part, b"")
        sha.update(f"{name}\0{len(content)}\0".encode() + content)
    return sha.hexdigest()


def sources(package: Path) -> list[Path]:
    """The program text of a package, in the order of its paths."""
    return sorted(path for path in package.rglob("*") if path.suffix in (".py", ".onnxtxt"))


def versions(*distributions: str) -> list[str]:
    """``name==version`` of what is installed."""
    return [f"{name}=={version(name)}" for name in distributions]
