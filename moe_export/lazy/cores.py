"""Work in pieces, each on a core of its own: products of few rows are too small to be split.

PyTorch splits each operator among its threads, which turn in circles between operators: with small
ones that costs more than it brings, and much more where other programs have the cores.
"""

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


_kept: int | None = None
"""The threads that operators left to pieces, while they have one each."""


@contextmanager
def one_core_for_operators() -> Iterator[int]:
    """PyTorch's operators take one thread each, which leaves so many cores for pieces of work."""
    global _kept
    before, threads = _kept, torch.get_num_threads()
    _kept = before or threads
    torch.set_num_threads(1)
    try:
        yield _kept
    finally:
        torch.set_num_threads(threads)
        _kept = before


def each_on_its_own_core(do: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
    """``do`` each piece, in any order; PyTorch's operators take one thread each meanwhile."""
    with one_core_for_operators() as cores:
        if cores == 1 or len(pieces) == 1:
            for piece in pieces:
                do(piece)
        else:
            for _ in _workers(cores).map(do, pieces):
                pass


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
def _workers(cores: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores, "moe-export", initializer=torch.set_num_threads, initargs=(1,))
