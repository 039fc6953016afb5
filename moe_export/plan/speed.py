"""How fast a core of this machine is, beside the one on which exports were measured."""

from __future__ import annotations

import hashlib
import statistics
import time

_ROUNDS = 5

_WORDS = 120_000
_ROWS, _COLUMNS = 384, 1024
_BYTES = 24 * 2**20

_MEASURED_SECONDS = 0.0535
"""What the piece of work takes on an AMD EPYC (Zen 5) of 4.2 GHz, to which all seconds refer."""


def core_slowness() -> float:
    """How many times as long as there a core takes here, busy as it is just now.

    It is told by the processor time of a piece of work of what exports are made of: a loop of
    Python, products of matrices, digests.  The median of some rounds, a quarter of a second in all.
    """
    from moe_export.lazy import one_core_for_operators

    with one_core_for_operators():  # or it would be the processor time of others
        return statistics.median(_work_seconds() for _ in range(_ROUNDS)) / _MEASURED_SECONDS


def _work_seconds() -> float:
    """Of this thread: others of the process may be at work."""
    import torch

    before = time.thread_time()
    sorted({str(number): number for number in range(_WORDS)})  # nothing for Python's collector
    torch.mm(torch.ones(_ROWS, _COLUMNS), torch.ones(_COLUMNS, 2 * _COLUMNS))
    hashlib.sha256(bytes(_BYTES)).digest()
    return time.thread_time() - before
