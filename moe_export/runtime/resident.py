"""Keep mapped weights from adding up in memory.

ONNX Runtime maps a bundle's weights, and every page that was ever read counts as this process's
memory, however large the model.  On Linux a process can give such pages back, and read them again
from the file when it needs them.

Pages are given back while a graph runs and at no other time: then its weights stay mapped where
they are.  At another moment something else might come to lie there, and would lose its bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Span = tuple[int, int]
"""Start and length, in bytes."""

# How much of them may stay, and how often to look: a core reads some 10 GiB in a second.
LIMIT = 1 << 28
_SECONDS = 0.004

# Held while pages are given back.
_LOCK = threading.Lock()

# Graphs that run, each with the mappings that it found when it began.
_running: dict[object, list[Span]] = {}

# The folder whose weights are given back.
_folder: str | None = None

_STATUS, _MAPS = Path("/proc/self/statm"), Path("/proc/self/smaps")
_WEIGHTS = ".onnx.data"
_DONTNEED = getattr(mmap, "MADV_DONTNEED", None)


def limit_within(max_memory: int | None) -> int:
    """How much may stay for an export that may have so many bytes in use: an eighth, if smaller."""
    return LIMIT if max_memory is None else min(LIMIT, max_memory // 8)


@contextmanager
def in_use() -> Iterator[None]:
    """Meanwhile, a graph runs and its weights stay mapped."""
    run = object()
    # Now: beside a run that reads, looking would take as long as reading a GiB.
    mapped = [] if _folder is None else list(_mapped(_folder))
    try:
        _running[run] = mapped
        yield
    finally:
        # In this order, so that an interruption of the wait leaves no run behind that has ended.
        _running.pop(run, None)
        with _LOCK:
            pass


@contextmanager
def trimmed(folder: Path, limit: int = LIMIT) -> Iterator[None]:
    """Meanwhile, give back the weights of the bundle in ``folder`` when they take ``limit`` bytes.

    Where the system cannot tell or do that, nothing happens.
    """
    if _DONTNEED is None or not _MAPS.exists():
        yield
        return
    global _folder
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(limit, done), name="trim", daemon=True)
    _folder = str(folder.resolve())
    try:
        watch.start()
        yield
    finally:
        _folder = None
        done.set()
        if watch.is_alive():
            watch.join()


def _watch(limit: int, done: threading.Event) -> None:
    advise = ctypes.CDLL(None).madvise
    while not done.wait(_SECONDS):
        with _LOCK:
            if not _running or _shared_bytes() <= limit:
                continue
            for start, length in {each for mapped in list(_running.values()) for each in mapped}:
                advise(ctypes.c_void_p(start), ctypes.c_size_t(length), _DONTNEED)


def _shared_bytes() -> int:
    """Of mapped files, in memory."""
    return int(_STATUS.read_text().split()[2]) * mmap.PAGESIZE


def _mapped(folder: str) -> Iterator[Span]:
    """Each mapping of weights in the folder that nothing was written to."""
    start = length = 0
    for line in _MAPS.read_text(errors="replace").splitlines():
        if not line[0].isupper():
            span, *_, name = line.split(maxsplit=5)
            first, last = (int(end, 16) for end in span.split("-"))
            inside = name.startswith(f"{folder}/") and name.endswith(_WEIGHTS)
            start, length = (first, last - first) if inside else (0, 0)
        elif line.startswith("Anonymous:") and length and line.split()[1] == "0":
            yield start, length
