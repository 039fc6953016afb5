"""An export's budget of memory: it is watched while a stage runs, and ends the export.

What counts is *anonymous* memory: what the process itself wrote, and what nobody can take away from
it.  Pages of files, libraries and mapped weights among them, do not count, because the system takes
them back whenever something else needs the room, and they come in without being asked for.  How
much of them is resident says more about how much memory is free than about the export.

Looking is done twenty times in a second by a thread.  A stage that takes more is interrupted as by
Ctrl-C, by a signal to the main thread whose handler raises.  That ends Python code at once, and
code in C when it returns.  A limit set by the system (``RLIMIT_DATA``) would come sooner, and would
end the process in whatever library first does without checking what it was given.

Python runs handlers of signals in the main thread alone.  Where an export runs in another one, a
stage that took too much is told so when it ends.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from moe_export.errors import MemoryBudgetError
from moe_export.report.figures import size

P = ParamSpec("P")
R = TypeVar("R")

# A core fills some 2 GiB in a second: they are 100 MiB beyond the budget when that is seen.  A look
# takes 0.3 ms.
_LOOK_SECONDS = 0.05

# Ignored unless somebody handles it, and hardly ever used: one that comes late does no harm.
_SIGNAL = signal.SIGURG

_PROC = Path("/proc")


@dataclass(frozen=True)
class Stages:
    """Runs the stages of an export, each within the same budget; ``None`` is without any."""

    max_memory: int | None
    announce: Callable[[str], None]
    """Hears each stage's name as it begins."""

    def __call__(self, name: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``function`` makes of its arguments.

        Raises ``MemoryBudgetError`` where more memory than the budget is in use before, after or
        meanwhile.  Nothing is interrupted between stages.
        """
        self.announce(name)
        if self.max_memory is None:
            return function(*args, **kwargs)
        watch = _Watch(name, self.max_memory)
        try:
            try:
                watch.start()
                made = function(*args, **kwargs)
            finally:
                watch.disarm()
        except _OverBudgetError as interruption:
            raise watch.refusal() from interruption
        finally:
            watch.stop()
        watch.look()
        return made


class _OverBudgetError(KeyboardInterrupt):
    """What interrupts a stage: nobody takes it for a failure of their own and goes on."""


class _Watch:
    """Looks at the memory in use, and interrupts the main thread, once, where it is too much."""

    def __init__(self, stage: str, limit: int) -> None:
        self._stage = stage
        self._limit = limit
        self._highest = 0
        self._armed = False
        self._before: Any = None
        self._interrupts = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="memory", daemon=True)

    def start(self) -> None:
        """Look from now on.  Raises ``MemoryBudgetError`` where it is too much already."""
        self.look()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(_SIGNAL)
        if self._before is not None:  # or it could not be put back
            self._interrupts = threading.get_ident()
            signal.signal(_SIGNAL, self._interrupt)
            self._armed = True
        self._thread.start()

    def disarm(self) -> None:
        """Interrupt nothing from now on."""
        self._armed = False

    def stop(self) -> None:
        """Look no more, and leave the signal as it was."""
        self._ended.set()
        try:
            if self._before is not None:
                signal.signal(_SIGNAL, self._before)
        finally:
            if self._thread.is_alive():
                self._thread.join()

    def look(self) -> None:
        """Raise ``MemoryBudgetError`` where too much is in use, or was."""
        self._note()
        if self._exceeded:
            raise self.refusal()

    def refusal(self) -> MemoryBudgetError:
        """What to say of the stage."""
        return MemoryBudgetError(
            f"{size(self._highest)} of memory were in use, more than the {size(self._limit)} that "
            "--max-memory allows",
            where=f"the stage {self._stage}",
            hint="allow more; moe-export plan says what an export needs",
        )

    @property
    def _exceeded(self) -> bool:
        return self._highest > self._limit

    def _note(self) -> None:
        self._highest = max(self._highest, memory_in_use())

    def _keep_looking(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._note()
            # Again and again: a signal just before the thread begins to wait does not wake it.
            if self._exceeded and self._armed:
                signal.pthread_kill(self._interrupts, _SIGNAL)

    def _interrupt(self, number: int, frame: object) -> None:
        if self._armed and self._exceeded:
            self._armed = False
            raise _OverBudgetError


def memory_in_use() -> int:
    """Bytes of anonymous memory of this process and of the programs that it started and that run.

    Linux tells.  Elsewhere it is the largest resident memory that the process ever had, pages of
    files included: an export may be ended without need there, and none goes on that should end.
    """
    if not (_PROC / "self/statm").exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return _anonymous_bytes("self") + sum(map(_anonymous_bytes, _programs()))


def _anonymous_bytes(process: str) -> int:
    """Resident less shared pages, ``RssAnon`` of ``status``; 0 for a process that has ended."""
    try:
        _, resident, shared, *_ = (_PROC / process / "statm").read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * mmap.PAGESIZE


def _programs() -> Iterator[str]:
    """Children with a program of their own.

    One that was just forked has this process's, and its memory too, which would count twice.
    """
    own = _command("self")
    for thread in os.listdir(_PROC / "self/task"):
        try:
            children = (_PROC / "self/task" / thread / "children").read_text().split()
        except OSError:
            continue  # the thread has ended, or this kernel does not tell
        yield from (child for child in children if _command(child) != own)


def _command(process: str) -> bytes:
    try:
        return (_PROC / process / "cmdline").read_bytes()
    except OSError:
        return b""
