"""Steps that Ctrl-C and SIGTERM do not divide."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def undivided() -> Iterator[None]:
    """Meanwhile, interruptions wait; the first that came is delivered when the block has ended.

    Only those that Python handles do, and only they can divide anything: another ends the process
    as SIGKILL would.  Handlers run in the main thread, so in any other there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {}
    try:
        for number in _INTERRUPTIONS:
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, note)
        yield
    finally:
        # SIGINT last: where only it has a handler, nothing can come between.
        for number, handler in reversed(before.items()):
            signal.signal(number, handler)
        for first in came[:1]:
            signal.raise_signal(first)
