"""Work in pieces, each on a core of its own: products of few rows are too small to be split."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

Piece = TypeVar("Piece")

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def each_on_its_own_core(do: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
    """``do`` each piece, in any order; PyTorch's operators take one thread each meanwhile."""
    with _one_thread_each() as threads:
        if threads == 1 or len(pieces) == 1:
            for piece in pieces:
                do(piece)
        else:
            for _ in _workers(threads).map(do, pieces):
                pass


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Operators of one thread, which leaves so many for others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@cache
def few_arenas() -> None:
    """Let all threads take memory from the same places, where the C library is one that asks.

    glibc gives threads arenas of their own, and what each was given once stays with it.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_ARENA_MAX, 2)


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        threads, "moe-export", initializer=torch.set_num_threads, initargs=(1,)
    )
