"""Measure a bundle: how fast it runs, where the time goes, and how far the machine would let it.

Contestants take turns in one process, A B A B, because a machine's speed drifts: compare the
ratios of one measurement, never the milliseconds of two.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe_export.bench.machine import bandwidth_probe, matmul_f32
from moe_export.bench.profile import OpTime, read_profile
from moe_export.bench.timing import Times, alternate
from moe_export.bench.work import work_of
from moe_export.errors import MissingEnvironmentError, UsageError
from moe_export.forms import MAIN_COMPONENT, Array
from moe_export.runtime import kernels
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.session import Session

Contestant = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Outputs by name for inputs by name."""

_PROFILED_RUNS = 10
_WARM_UP_RUNS = 2


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How one contestant did; times are seconds of one run."""

    name: str
    seconds: float
    quartiles: tuple[float, float]
    """Between them lies the middle half of all runs."""

    tokens_per_second: float | None
    speedup: float
    """How many times as long as the bundle it took, in the same rounds."""

    difference: float | None
    """The largest difference of an output from the bundle's, over the largest number in it; of
    outputs both have.  ``None`` where there is none."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One measurement.  A share is ``None`` where nothing could be told apart or measured."""

    bundle: str
    target: str
    precision: str
    threads: int
    level: str | None
    """Of the kernels in use; ``None`` without kernels."""

    inputs: str
    shapes: Mapping[str, tuple[int, ...]]
    tokens: int
    load_seconds: float
    entries: tuple[Entry, ...]
    """The bundle first."""

    ops: tuple[OpTime, ...]
    """Of a profiled run, which is slower than the others."""

    moe_share: float | None
    """Of a run's time, what the MoE ops take."""

    expert_bytes: int
    operations: int
    read_bandwidth: float | None
    """Bytes per second of the machine, sampled beside the runs."""

    matmul_f32: float
    """Operations per second of NumPy's matrix product."""

    bandwidth_share: float | None
    """Of the machine's bandwidth, what the MoE ops reach on the experts' weights that they read."""

    matmul_share: float | None
    """Of the machine's matrix product, what the MoE ops reach."""


def bench(
    bundle: Bundle,
    inputs: Mapping[str, Array],
    *,
    described: str,
    component: str = MAIN_COMPONENT,
    against: Mapping[str, Contestant] | None = None,
    threads: int | None = None,
    seconds: float = 10.0,
) -> Bench:
    """Measure a component of ``bundle`` on ``inputs`` beside the contestants of ``against``.

    All together take some ``seconds``.  ``described`` says where the inputs come from, ``threads``
    is one for each core by default.  Raises as ``Session`` does, and ``UsageError`` where
    ``seconds`` is no time to measure in or a contestant is called as the bundle is.
    """
    if not 0 < seconds < 3600:
        raise UsageError(f"seconds must be between 0 and 3600, got {seconds}", where="--seconds")
    others = dict(against or {})
    if bundle.path.name in others:
        raise UsageError("this names the bundle itself", where=f"--against {bundle.path.name}")
    count = threads or len(os.sched_getaffinity(0))
    work = work_of(bundle, inputs, component)
    ops = _profiled(bundle, inputs, component, count)
    began = time.perf_counter()
    with Session(bundle, component=component, threads=count) as session:
        load_seconds = time.perf_counter() - began
        contestants: dict[str, Contestant] = {bundle.path.name: session.run, **others}
        outputs = {name: dict(run(inputs)) for name, run in contestants.items()}
        times = _timed(contestants, inputs, count, seconds)
    own = next(iter(times.values()))
    moe = [op.seconds for op in ops if op.is_moe]
    moe_share = sum(moe) / sum(op.seconds for op in ops) if moe else None
    peak = matmul_f32()
    has_bandwidth = own.turns[0].sample == own.turns[0].sample
    return Bench(
        bundle=bundle.path.name,
        target=bundle.manifest.target,
        precision=str(bundle.manifest.precision),
        threads=count,
        level=_level(bundle),
        inputs=described,
        shapes={name: array.shape for name, array in inputs.items()},
        tokens=work.tokens,
        load_seconds=load_seconds,
        entries=tuple(_entry(name, times, outputs, work.tokens) for name in contestants),
        ops=ops,
        moe_share=moe_share,
        expert_bytes=work.expert_bytes,
        operations=work.operations,
        read_bandwidth=own.sample if has_bandwidth else None,
        matmul_f32=peak,
        bandwidth_share=(
            own.share(work.expert_bytes) / moe_share if moe_share and has_bandwidth else None
        ),
        matmul_share=work.operations / own.seconds / moe_share / peak if moe_share else None,
    )


def _profiled(
    bundle: Bundle, inputs: Mapping[str, Array], component: str, threads: int
) -> tuple[OpTime, ...]:
    with (
        tempfile.TemporaryDirectory(prefix="moe-export-bench-") as folder,
        Session(
            bundle, component=component, threads=threads, profile=Path(folder) / "profile"
        ) as session,
    ):
        for _ in range(_WARM_UP_RUNS + _PROFILED_RUNS):
            session.run(inputs)
        return read_profile(session.end_profile(), skipped_runs=_WARM_UP_RUNS)


def _timed(
    contestants: Mapping[str, Contestant],
    inputs: Mapping[str, Array],
    threads: int,
    seconds: float,
) -> dict[str, Times]:
    rounds = 7
    return alternate(
        {name: _call(run, inputs) for name, run in contestants.items()},
        rounds=rounds,
        turn_seconds=seconds / rounds / len(contestants),
        sample=bandwidth_probe(threads) or (lambda: float("nan")),
    )


def _call(run: Contestant, inputs: Mapping[str, Array]) -> Callable[[], object]:
    return lambda: run(inputs)


def _entry(
    name: str,
    times: Mapping[str, Times],
    outputs: Mapping[str, Mapping[str, Array]],
    tokens: int,
) -> Entry:
    first = next(iter(times))
    own = times[name]
    return Entry(
        name=name,
        seconds=own.seconds,
        quartiles=own.quartiles,
        tokens_per_second=tokens / own.seconds if tokens else None,
        speedup=times[first].faster_than(own),
        difference=None if name == first else _difference(outputs[first], outputs[name]),
    )


def _difference(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float | None:
    both = [name for name in ours if name in theirs and ours[name].shape == np.shape(theirs[name])]
    return max((_relative(ours[name], theirs[name]) for name in both), default=None)


def _relative(ours: Array, theirs: Array) -> float:
    largest = float(np.abs(ours).max(initial=0)) or 1.0
    gap = np.abs(ours.astype(np.float64) - np.asarray(theirs, np.float64))
    return float(gap.max(initial=0)) / largest


def _level(bundle: Bundle) -> str | None:
    if bundle.manifest.kernels is None:
        return None
    try:
        return kernels.level()
    except MissingEnvironmentError:
        return None


__all__ = ["Bench", "Contestant", "Entry", "bench"]
