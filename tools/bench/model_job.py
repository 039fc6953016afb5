"""What an engine of tools/bench/models.py is asked for, and what it answers."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

# Of the uncounted answer in front: some steps behind the prompt, for pools and caches.
_WARM_TOKENS = 4

_LOOKS = 3


@dataclass(frozen=True)
class Job:
    """One contender's model and where its files are."""

    model: Path
    """A Transformers directory with ``prompt.json``, ``prompt.png`` and ``prompt.npz``."""

    made: Path
    """The folder of what the contender makes of the model."""

    peers: Path
    precision: str
    new_tokens: int
    threads: int
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Job:
        paths = {name: Path(facts[name]) for name in ("model", "made", "peers")}
        return cls(**{**facts, **paths})

    def facts(self) -> dict[str, Any]:
        """The same as JSON has it."""
        paths = {name: str(getattr(self, name)) for name in ("model", "made", "peers")}
        return {**vars(self), **paths}

    def prompt(self) -> dict[str, Any]:
        """The arrays of ``prompt.npz``."""
        import numpy as np

        with np.load(self.model / "prompt.npz") as arrays:
            return dict(arrays)


class NotRunError(Exception):
    """A contender that has no such precision, or cannot be built; the reason is shown."""


@dataclass(frozen=True)
class Measured:
    """One answer.  Seconds; what a contender has no part for is none."""

    load: float | None
    prefill: float
    """Of the prompt behind the vision tower."""

    decode: float
    """Of one token, the mean of those behind the first."""

    peak_mib: float
    prompt_tokens: int
    vision: float | None = None
    first: float | None = None
    """From patches to the first token: vision, embedding and prefill."""

    tokens: tuple[int, ...] = ()
    """The answer's ids, where the contender tells them."""


class Engine(Protocol):
    """A model that is loaded."""

    def answer(self, count: int) -> Iterator[int]:
        """``count`` ids of an answer to the job's prompt, image included."""

    def see(self) -> object:
        """The vision tower alone, or none."""


def measure(job: Job, load: Callable[[Job], Engine]) -> Measured:
    """Load, an answer that is not counted, then one that is; the vision tower alone comes last."""
    start = time.perf_counter()
    engine = load(job)
    loaded = time.perf_counter() - start
    for _ in engine.answer(_WARM_TOKENS):
        pass
    first, decode, tokens = paced(lambda: engine.answer(job.new_tokens + 1), job.new_tokens)
    peak = peak_mib()
    prompt = job.prompt()["input_ids"].shape[1]
    if engine.see() is None:
        return Measured(loaded, first, decode, peak, prompt, tokens=tokens)
    vision = statistics.median(_seconds(engine.see) for _ in range(_LOOKS))
    return Measured(loaded, first - vision, decode, peak, prompt, vision, first, tokens)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paced(
    begin: Callable[[], Iterator[int]], count: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float, tuple[int, ...]]:
    """Seconds to the first token, seconds for each of ``count`` more, and all of their ids.

    ``begin`` starts the answer: an engine may see the image before it hands out an iterator.
    """
    start = clock()
    answer = begin()
    tokens = [next(answer)]
    first = clock()
    tokens += itertools.islice(answer, count)
    end = clock()
    if len(tokens) <= count:
        raise NotRunError(f"the answer ended behind {len(tokens)} tokens")
    return first - start, (end - first) / count, tuple(tokens)


def peak_mib() -> float:
    """Of this process since it began; what its parent held before does not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")
