"""Several runs of one model side by side, so that each slice of a weight is read once for all.

A run is a function in a thread of its own that holds whenever it multiplies with a lazy matrix.
When all hold, the matrix that most of them are to meet next is read, slice by slice, and each run
is given its own product: the very numbers it would have had alone.  One thread moves at a time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from moe_export.lazy.cores import few_arenas
from moe_export.lazy.tensors import Reader

Result = TypeVar("Result")

Multiply = Callable[[Reader, Sequence[Any]], Sequence[Tensor]]
"""A matrix, or those of all experts, and the rows of several runs to the product of each."""


class Promise(Generic[Result]):
    """What one run will give to others."""

    def __init__(self) -> None:
        self._given: list[Result] = []

    @property
    def is_kept(self) -> bool:
        """Whether it was given."""
        return bool(self._given)

    def keep(self, result: Result) -> None:
        """Give it."""
        self._given.append(result)

    def get(self) -> Result:
        """What was given; a run beside others waits for it."""
        if not self.is_kept and (run := _current()) is not None:
            run.hold(self)
        if not self.is_kept:
            raise AssertionError("a run waits for what no run before it has given")
        return self._given[0]


@dataclass(frozen=True)
class Place:
    """Where a matrix stands among those of a model: which tensor, and which of its matrices."""

    owner: Any
    index: int


@dataclass(frozen=True)
class _Product:
    """What a run holds for: ``rows`` are to meet ``matrix``, which stands at ``place``."""

    rows: Any
    matrix: Reader
    place: Place
    multiply: Multiply


# Behind all places: a run that stands there waits until the first one comes by.
_NOWHERE = (math.inf, 0)


class _Ended(BaseException):
    """Raised in a run that is not to go on, because another failed."""


class _Run(threading.Thread):
    """One function, which moves only while ``resume`` waits for it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._context = copy_context()
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._answer: Any = None
        self.holds_for: _Product | Promise[Any] | None = None
        self.is_over = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.last: tuple[float, int] = _NOWHERE
        """Where it stood when it last met a matrix whose place is known."""

    def run(self) -> None:
        self._go.acquire()
        try:
            # The arithmetic of all is done by whoever resumes; the rest is small.
            torch.set_num_threads(1)
            if not isinstance(self._answer, _Ended):
                self.result = self._context.run(self._function)
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by who resumed it
            self.error = error
        self.is_over = True
        self._back.release()

    def hold(self, request: _Product | Promise[Any]) -> Any:
        """Called by the run itself: let others move until there is an answer."""
        self.holds_for = request
        self._back.release()
        self._go.acquire()
        self.holds_for = None
        if isinstance(self._answer, _Ended):
            raise self._answer
        return self._answer

    def resume(self, answer: Any = None) -> None:
        """Let it move until it holds again or is over; raises what it raised."""
        self._answer = answer
        self._go.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error


def _current() -> _Run | None:
    thread = threading.current_thread()
    return thread if isinstance(thread, _Run) else None


def multiplied(rows: Any, matrix: Reader, place: Place, multiply: Multiply) -> Tensor:
    """``rows`` times a matrix: at once, or beside other runs together with theirs."""
    run = _current()
    if run is None:
        return multiply(matrix, [rows])[0]
    made: Tensor = run.hold(_Product(rows, matrix, place, multiply))
    return made


def together(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """What the functions return, each as if it had run alone, in this order.

    The first is the one whose way through the model the others are kept beside.  What one raises
    ends all and is raised here.
    """
    few_arenas()
    threads = torch.get_num_threads()
    runs = [_Run(function) for function in functions]
    for run in runs:
        run.start()
    try:
        for run in runs:
            run.resume()
            torch.set_num_threads(threads)
        _Company(runs).walk()
    finally:
        for run in runs:
            run.error = None
            while not run.is_over:
                run.resume(_Ended())
            run.join()
        torch.set_num_threads(threads)
    return [run.result for run in runs]


@dataclass
class _Company:
    """Runs on their way through a model, and the order of its matrices as the first finds them."""

    runs: Sequence[_Run]
    _ranks: dict[Any, int] = field(default_factory=dict)
    _rank: int = -1

    def walk(self) -> None:
        """Move all runs to their ends."""
        while waiting := [run for run in self.runs if not run.is_over]:
            for run, answer in self._given(waiting) or self._products(waiting):
                run.resume(answer)

    def _given(self, waiting: Sequence[_Run]) -> list[tuple[_Run, Any]]:
        """The runs that were promised what is there by now."""
        promised = ((run, run.holds_for) for run in waiting)
        return [(run, None) for run, x in promised if isinstance(x, Promise) and x.is_kept]

    def _products(self, waiting: Sequence[_Run]) -> list[tuple[_Run, Any]]:
        """The products of those that meet the next matrix."""
        held = [(run, x) for run in waiting if isinstance(x := run.holds_for, _Product)]
        if not held:
            raise AssertionError("all runs wait for what none of them gives")
        if held[0][0] is waiting[0]:
            self._learn(held[0][1].place.owner)
        _, first = min(held, key=lambda each: self._order(*each))
        group = [
            (run, x) for run, x in held if x.multiply == first.multiply and x.matrix == first.matrix
        ]
        made = first.multiply(first.matrix, [x.rows for _, x in group])
        for run, x in group:
            if x.place.owner in self._ranks:
                run.last = self._order(run, x)
        return list(zip((run for run, _ in group), made, strict=True))

    def _order(self, run: _Run, product: _Product) -> tuple[float, int]:
        """The rank of its tensor and the place in it.

        A tensor without a rank is one that the first run has not come to, or one that it passed
        by: it comes when the first is beyond the rank where this run was.
        """
        rank = self._ranks.get(product.place.owner)
        return (run.last[0] + 0.5, 0) if rank is None else (rank, product.place.index)

    def _learn(self, owner: Any) -> None:
        """Rank a tensor behind those before; going back to one shows a loop, which is one rank."""
        known = self._ranks.get(owner)
        if known is None:
            self._rank += 1
            self._ranks[owner] = self._rank
        elif known < self._rank:
            self._ranks = {other: min(rank, known) for other, rank in self._ranks.items()}
            self._rank = known
