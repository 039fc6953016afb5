"""Where a graph's time goes, operator by operator, as ONNX Runtime's profiler wrote it down."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOE_OPS = frozenset(("Router", "Experts", "Dispatch", "GroupedMatMul", "Combine"))


@dataclass(frozen=True, kw_only=True)
class OpTime:
    """One kind of operator in one run: how often, and how long all of them took."""

    op: str
    calls: float
    seconds: float

    @property
    def is_moe(self) -> bool:
        """Whether it is a part of an MoE layer that runs on this project's kernels."""
        return self.op in MOE_OPS


def read_profile(path: Path, *, skipped_runs: int = 0) -> tuple[OpTime, ...]:
    """The operators of a run, the longest first: each one's median over the runs in the file.

    What runs inside another (the body of a loop) counts for the outer one.  The first
    ``skipped_runs`` runs are left out.  Raises ``ValueError`` where that leaves none.
    """
    events = json.loads(path.read_bytes())
    runs = [_span(event) for event in events if event["name"] == "model_run"]
    kept = sorted(runs)[skipped_runs:]
    if not kept:
        raise ValueError(f"{path} has no runs behind the first {skipped_runs}")
    nodes = [event for event in events if event.get("cat") == "Node" and event["dur"] > 0]
    totals = [_totals(nodes, begin, end) for begin, end in kept]
    times = (
        OpTime(
            op=op,
            calls=statistics.mean(calls for calls, _ in found),
            seconds=statistics.median(spent for _, spent in found) / 1e6,
        )
        for op in sorted({op for total in totals for op in total})
        for found in [[total.get(op, (0, 0)) for total in totals]]
    )
    return tuple(sorted(times, key=lambda time: -time.seconds))


def _totals(nodes: Iterable[Mapping[str, Any]], begin: int, end: int) -> dict[str, tuple[int, int]]:
    """Calls and microseconds of each operator between two moments."""
    totals: dict[str, tuple[int, int]] = {}
    for op, microseconds in _outermost(node for node in nodes if begin <= node["ts"] < end):
        calls, spent = totals.get(op, (0, 0))
        totals[op] = (calls + 1, spent + microseconds)
    return totals


def _outermost(nodes: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """Operator and microseconds of each node that runs in no other."""
    reached = -1
    for node in sorted(nodes, key=lambda node: (node["ts"], -node["dur"])):
        _, end = _span(node)
        if end > reached:
            reached = end
            yield node["args"]["op_name"], node["dur"]


def _span(event: Mapping[str, Any]) -> tuple[int, int]:
    return event["ts"], event["ts"] + event["dur"]
