"""Contestants timed in turn, so that a machine that slows down slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A thread pool that another contestant left spinning would take part of a core: ONNX Runtime and
# OpenMP look for work for some milliseconds before they sleep.
_SETTLE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one contestant did in one round: the seconds of each call, and the sample beside it."""

    seconds: tuple[float, ...]
    sample: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Times:
    """All turns of one contestant."""

    turns: tuple[Turn, ...]

    @property
    def seconds(self) -> float:
        """The median of all calls."""
        return statistics.median(self._calls())

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of all calls; of one call, twice that call."""
        calls = self._calls()
        if len(calls) == 1:
            return calls[0], calls[0]
        low, _, high = statistics.quantiles(calls, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """The middle half's width as a share of the median."""
        low, high = self.quartiles
        return (high - low) / self.seconds

    @property
    def sample(self) -> float:
        """The median of what was sampled beside the turns."""
        return statistics.median(turn.sample for turn in self.turns)

    def faster_than(self, other: Times) -> float:
        """How many times as long ``other`` took: the median over the rounds both were in."""
        pairs = zip(self.turns, other.turns, strict=True)
        return statistics.median(theirs.median / ours.median for ours, theirs in pairs)

    def share(self, amount: float) -> float:
        """``amount`` per call as a share of what was sampled beside it: the median over rounds.

        With samples in bytes per second and ``amount`` in bytes, the share of the bandwidth.
        """
        return statistics.median(amount / turn.median / turn.sample for turn in self.turns)

    def _calls(self) -> list[float]:
        return [seconds for turn in self.turns for seconds in turn.seconds]


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    turn_seconds: float,
    sample: Callable[[], float],
) -> dict[str, Times]:
    """Let every contestant take its turn in each of ``rounds`` rounds: A B A B.

    A turn is one call that is not counted, then calls until ``turn_seconds`` have gone, at least
    one.  Of a contestant whose call takes longer than a turn, only the very first is not counted.
    ``sample`` is called before and after each turn, and the turn has the mean of the two.  Every
    other round runs backwards, so that nobody always follows the same one.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for number in range(rounds):
        order = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        before = sample()
        for name in order:
            time.sleep(_SETTLE_SECONDS)
            long = bool(turns[name]) and turns[name][-1].median > turn_seconds
            seconds = _take_turn(contestants[name], turn_seconds, warm_up=not long)
            time.sleep(_SETTLE_SECONDS)
            after = sample()
            turns[name].append(Turn(seconds=seconds, sample=(before + after) / 2))
            before = after
    return {name: Times(turns=tuple(taken)) for name, taken in turns.items()}


def _take_turn(
    call: Callable[[], object], turn_seconds: float, *, warm_up: bool
) -> tuple[float, ...]:
    if warm_up:
        call()
    seconds: list[float] = []
    end = time.perf_counter() + turn_seconds
    while not seconds or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return tuple(seconds)
