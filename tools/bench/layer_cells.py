"""One group of cells: a layer in one precision, all engines in this process, A B A B."""

from __future__ import annotations

import importlib
import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layer_engines import Engine, Job, LeftOutError, plain
from layer_problem import (
    BITS,
    LAYERS,
    PRECISIONS,
    Layer,
    Step,
    copies,
    exact,
    relative_rms,
    steps,
)

from moe_export.bench.machine import bandwidth_probe
from moe_export.bench.timing import Times, alternate
from moe_export.errors import MissingEnvironmentError

OURS = "moe-export"

# By name: where the engine is.  The order is that of the table.
ENGINES = {
    OURS: ("ours", "MoeExport"),
    "moe-export, Router too": ("ours", "MoeExportRouted"),
    "torch eager": ("peers_torch", "TorchEager"),
    "torch grouped_mm": ("peers_torch", "TorchGrouped"),
    "onnxruntime MoE": ("peers_onnxruntime", "OnnxRuntimeMoE"),
    "onnxruntime MoE, blocks": ("peers_onnxruntime", "OnnxRuntimeBlocks"),
    "transformers onnx": ("peers_transformers", "TransformersOnnx"),
    "openvino": ("peers_openvino", "OpenVino"),
}
OWN = (OURS, "moe-export, Router too")

Key = tuple[str, str]
"""An engine's name and its own precision."""

# Seconds.  PyTorch without bfloat16 instructions needs minutes for what others do in 0.1 s.
_LONGEST_CALL = 8.0

# The float64 truth of so many tokens is enough for an error of 2048 tokens.
_CHECKED_TOKENS = 16


@dataclass(frozen=True)
class Group:
    """What one process measures."""

    layer: str
    precision: str
    tokens: tuple[int, ...]
    engines: tuple[str, ...]
    lower: bool
    """Peers that store fewer bits take part too."""

    threads: int
    rounds: int
    turn_seconds: float
    cache: str


@dataclass(frozen=True)
class Row:
    """One engine in one cell."""

    layer: str
    tokens: int
    precision: str
    """Of the cell; ``engine_precision`` is the engine's own."""

    engine: str
    engine_precision: str
    milliseconds: float
    quartiles: tuple[float, float]
    tokens_per_second: float
    bandwidth_share: float
    """Bytes of the experts touched, as stored, over the bandwidth sampled beside."""

    peak_share_f32: float | None
    peak_share_bf16: float | None
    slower_than_ours: float | None
    """How many times as long as moe-export."""

    error: float
    """Against the float32 weights in float64: RMS of the error over RMS of the result."""

    error_of_stored: float
    """Against the stored weights in float64."""

    bandwidth: float
    """Bytes per second, the median of the samples beside this engine."""


def measure(group: Group, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of all cells of a group, as dictionaries; ``say`` gets what was left out."""
    os.environ.setdefault("OMP_NUM_THREADS", str(group.threads))
    layer = LAYERS[group.layer]
    rows: list[Row] = []
    token_seconds: dict[Key, float] = {}
    for number, tokens in itertools.groupby(
        group.tokens, lambda tokens: copies(layer, group.precision, tokens)
    ):
        some = tuple(tokens)
        engines = dict(_load(group, layer, number, some[0], say))
        for count in some:
            cell = _Cell(group, layer, number, count)
            quick = dict(_quick(engines, cell, token_seconds, say))
            made = cell.measure(quick)
            # Up to 16 tokens it is the experts that cost, not the tokens.
            token_seconds |= {
                (row.engine, row.engine_precision): row.milliseconds / 1e3 / max(count, 16)
                for row in made
            }
            rows += made
        del engines
    return [asdict(row) for row in rows]


def _quick(
    engines: Mapping[Key, Engine],
    cell: _Cell,
    token_seconds: Mapping[Key, float],
    say: Callable[[str], None],
) -> Iterator[tuple[Key, Engine]]:
    """Those whose calls, from what they took for fewer tokens, are no longer than the limit."""
    for key, engine in engines.items():
        seconds = token_seconds.get(key, 0) * cell.tokens * cell.number
        if seconds <= _LONGEST_CALL:
            yield key, engine
            continue
        name, precision = key
        say(
            f"{cell.layer.name} {precision}, {cell.tokens} tokens: {name} is left out: "
            f"a call would take some {seconds:.0f} s"
        )


def _load(group: Group, layer: Layer, number: int, tokens: int, say: Callable[[str], None]) -> Any:
    """Name, precision and engine of everybody who takes part."""
    for name, precision in _entries(group):
        job = Job(layer, precision, number, tokens, group.threads, Path(group.cache))
        needed = 2.2 * number * layer.experts * layer.parameters * BITS[precision] / 8
        try:
            if needed > _available_bytes():
                raise LeftOutError(f"needs {needed / 2**30:.1f} GiB of memory")
            module, kind = ENGINES[name]
            yield (name, precision), getattr(importlib.import_module(module), kind)(job)
        except (LeftOutError, MissingEnvironmentError) as reason:
            say(f"{layer.name} {precision}: {name} is left out: {reason}")
        except ImportError as reason:
            say(f"{layer.name} {precision}: {name} is not installed: {reason}")


def _entries(group: Group) -> list[tuple[str, str]]:
    own = [(name, group.precision) for name in group.engines if name in OWN]
    at = PRECISIONS.index(group.precision)
    precisions = PRECISIONS[at:] if group.lower else (group.precision,)
    peers = [name for name in group.engines if name not in OWN]
    return own + [(name, precision) for precision in precisions for name in peers]


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


@dataclass(frozen=True)
class _Cell:
    """A layer in one precision with one number of tokens."""

    group: Group
    layer: Layer
    number: int
    """Copies of the layer that a call runs."""

    tokens: int

    def measure(self, engines: Mapping[Key, Engine]) -> list[Row]:
        work = steps(self.layer, self.tokens, self.number)
        given = {key: [engine.prepare(step) for step in work] for key, engine in engines.items()}
        errors = {
            key: _errors(self.layer, engine, work[0], given[key][0])
            for key, engine in engines.items()
        }
        contestants: dict[Any, Callable[[], object]] = {
            key: _cycle(engine, given[key]) for key, engine in engines.items()
        }
        peaks = _peaks(self.group.threads) if self.tokens > 16 else {}
        times = alternate(
            contestants | {name: product for name, (product, _) in peaks.items()},
            rounds=self.group.rounds,
            turn_seconds=self.group.turn_seconds,
            sample=bandwidth_probe(self.group.threads) or (lambda: float("nan")),
        )
        operations = self.number * self.layer.operations(self.tokens)
        touched = statistics.mean(step.touched() for step in work)
        rows = []
        for key, engine in engines.items():
            shares = {
                name: times[key].faster_than(times[name]) * operations / size
                for name, (_, size) in peaks.items()
            }
            read = touched * engine.bytes_per_expert
            rows.append(self._row(key, times, read, shares, errors[key]))
        return rows

    def _row(
        self,
        key: Key,
        times: Mapping[Any, Times],
        read: float,
        shares: Mapping[str, float],
        errors: tuple[float, float],
    ) -> Row:
        own = times[key]
        ours = times.get((OURS, self.group.precision))
        low, high = own.quartiles
        scale = 1e3 / self.number
        return Row(
            layer=self.layer.name,
            tokens=self.tokens,
            precision=self.group.precision,
            engine=key[0],
            engine_precision=key[1],
            milliseconds=own.seconds * scale,
            quartiles=(low * scale, high * scale),
            tokens_per_second=self.tokens * self.number / own.seconds,
            bandwidth_share=own.share(read),
            peak_share_f32=shares.get("f32"),
            peak_share_bf16=shares.get("bf16"),
            slower_than_ours=None if ours is None else ours.faster_than(own),
            error=errors[0],
            error_of_stored=errors[1],
            bandwidth=own.sample,
        )


def _cycle(engine: Engine, given: Sequence[Any]) -> Callable[[], object]:
    turns = itertools.cycle(given)
    return lambda: engine.run(next(turns))


def _peaks(threads: int) -> dict[str, tuple[Callable[[], object], int]]:
    """By dtype, a product of two square matrices and its operations."""
    try:
        import peers_torch
    except ImportError:
        return {}
    return {name: peers_torch.matmul_peak(name, threads) for name in ("f32", "bf16")}


def _errors(layer: Layer, engine: Engine, step: Step, given: Any) -> tuple[float, float]:
    """Of the first copy's first tokens: against float32 weights and against those stored."""
    job = Job(layer, "f32", 1, 1, 1, Path())
    got = engine.first(engine.run(given))[:_CHECKED_TOKENS]
    x, ids, weights = (
        part[0][:_CHECKED_TOKENS] for part in (step.x, step.topk_ids, step.topk_weights)
    )
    return (
        relative_rms(got, exact(x, ids, weights, plain(job))),
        relative_rms(got, exact(x, ids, weights, engine.matrices)),
    )
