"""Ctrl-C and SIGTERM, as ``kill`` sends it, become exceptions, so that what was begun is undone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn


class CtrlCError(KeyboardInterrupt):
    """SIGINT came.

    A plain ``KeyboardInterrupt`` would do, but for this: where one leaves code that was compiled at
    run time, as tracing does, Python ends by SIGINT in the end, whatever status it is told.
    """


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came.  Whatever lets Ctrl-C pass lets this pass."""


@contextmanager
def raising() -> Iterator[None]:
    """Meanwhile, the two signals raise in the main thread.

    Whoever started the program with one of them ignored, or handles it, keeps it so.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    with ExitStack() as restored:
        for number, handler in usual.items():
            if _in_main_thread() and signal.getsignal(number) == handler:
                restored.callback(signal.signal, number, handler)
                signal.signal(number, _raise)
        yield


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise CtrlCError if number == signal.SIGINT else TerminatedError
