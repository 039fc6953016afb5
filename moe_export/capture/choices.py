"""What one run of a model keeps of much, for other runs that are to keep the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from moe_export.forms import CHOICES
from moe_export.lazy import Promise


class Kept:
    """The choices of one run, in the order in which it made them.

    A choice between numbers that are equal but for rounding may fall otherwise in float64; what
    follows from it is no measure of rounding.
    """

    def __init__(self) -> None:
        self._choices: list[Promise[Tensor]] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Within, a run chooses for itself, and others are told."""

        def settle(number: int, choice: Tensor) -> Tensor:
            self._at(number).keep(choice)
            return choice

        with _settled(settle):
            yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within, a run keeps what the one that was recorded did, and waits for it."""
        with _settled(lambda number, _: self._at(number).get()):
            yield

    def _at(self, number: int) -> Promise[Tensor]:
        while number >= len(self._choices):
            self._choices.append(Promise())
        return self._choices[number]


@contextmanager
def _settled(settle: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """``settle`` is told how many choices came before, and the choice."""
    made = 0

    def next_one(choice: Tensor) -> Tensor:
        nonlocal made
        made += 1
        return settle(made - 1, choice)

    before, CHOICES.settle = CHOICES.settle, next_one
    try:
        yield
    finally:
        CHOICES.settle = before
