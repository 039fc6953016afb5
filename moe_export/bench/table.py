"""A measurement for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_export.bench import Bench, Entry

# A screen's worth; the JSON has all.
_OPS_SHOWN = 8

_HEAD = ("", "ms", "middle half", "tokens/s", "times its time", "difference")
_OPS_HEAD = ("operator", "calls", "ms", "share")


def lines(bench: Bench) -> Iterator[str]:
    """Facts, contestants, operators."""
    yield from _facts(bench)
    yield ""
    yield from _columns([_HEAD, *map(_entry, bench.entries)])
    yield ""
    yield from _columns([_OPS_HEAD, *_ops(bench)])


def _facts(bench: Bench) -> list[str]:
    kernels = f", kernels {bench.level}" if bench.level else ""
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in bench.shapes.items())
    facts = [
        ("bundle", f"{bench.bundle}, target {bench.target}, {bench.precision}{kernels}"),
        ("inputs", f"{bench.inputs}: {shapes}; {bench.tokens} tokens"),
        ("loading", f"{bench.load_seconds:.2f} s"),
        ("machine", f"{bench.threads} threads, {_machine(bench)}"),
        ("MoE ops", _moe(bench)),
    ]
    width = max(len(label) for label, _ in facts)
    return [f"  {label.ljust(width)}  {words}" for label, words in facts]


def _machine(bench: Bench) -> str:
    read = (
        "bandwidth not measured: no native kernels here"
        if bench.read_bandwidth is None
        else f"reads {bench.read_bandwidth / 1e9:.1f} GB/s"
    )
    return f"{read}, multiplies float32 matrices at {bench.matmul_f32 / 1e9:.0f} GFLOP/s"


def _moe(bench: Bench) -> str:
    if bench.moe_share is None:
        return "not told apart: they are standard operators here"
    milliseconds = bench.moe_share * bench.entries[0].seconds * 1e3
    words = [f"{milliseconds:.3g} ms of a run, {bench.moe_share:.0%}"]
    if bench.bandwidth_share is not None:
        words.append(
            f"{bench.expert_bytes / 2**20:.3g} MiB of experts at {bench.bandwidth_share:.0%} of "
            "what the machine reads"
        )
    if bench.matmul_share is not None:
        words.append(f"{bench.matmul_share:.0%} of what it multiplies")
    return "; ".join(words)


def _entry(entry: Entry) -> tuple[str, ...]:
    low, high = (f"{seconds * 1e3:.3g}" for seconds in entry.quartiles)
    return (
        entry.name,
        f"{entry.seconds * 1e3:.3g}",
        f"{low} to {high}",
        "" if entry.tokens_per_second is None else f"{entry.tokens_per_second:.0f}",
        f"{entry.speedup:.2f}",
        "" if entry.difference is None else f"{entry.difference:.1e}",
    )


def _ops(bench: Bench) -> Iterator[tuple[str, ...]]:
    total = sum(op.seconds for op in bench.ops)
    for op in bench.ops[:_OPS_SHOWN]:
        share = op.seconds / total if total else 0
        yield op.op, f"{op.calls:g}", f"{op.seconds * 1e3:.3g}", f"{share:.0%}"
    others = bench.ops[_OPS_SHOWN:]
    if others:
        seconds = sum(op.seconds for op in others)
        calls = sum(op.calls for op in others)
        yield (
            f"{len(others)} others",
            f"{calls:g}",
            f"{seconds * 1e3:.3g}",
            f"{seconds / total if total else 0:.0%}",
        )


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            word.rjust(width) if column else word.ljust(width)
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
