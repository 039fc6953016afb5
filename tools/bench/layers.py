"""Time one mixture-of-experts layer on moe-export's kernels and on every peer, side by side.

    python tools/bench/layers.py --layers B --tokens 1 --precisions int4
    python tools/bench/layers.py --json layers.json

Peers come from tools/bench/requirements.txt; those that are not installed are left out.  Each
layer and precision has a process of its own, in which all engines take turns.  docs/bench.md says
what the numbers mean.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from layer_cells import ENGINES, OURS, OWN, Group, measure
from layer_problem import LAYERS, PRECISIONS

_PACKAGES = ("moe-export", "numpy", "onnxruntime", "openvino", "torch", "transformers")


def main() -> None:
    arguments = _arguments()
    cache = Path(arguments.cache)
    cache.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": _machine(arguments.threads), "rows": [], "left_out": []}
    for layer in arguments.layers:
        for precision in arguments.precisions:
            group = Group(
                layer,
                precision,
                tuple(sorted(arguments.tokens)),
                tuple(arguments.engines),
                arguments.lower,
                arguments.threads,
                arguments.rounds,
                arguments.turn_seconds,
                str(cache),
            )
            rows, left_out = _in_a_process(group)
            result["rows"] += rows
            result["left_out"] += left_out
            print("\n".join(_table(rows)), flush=True)
            if arguments.json:
                Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--layers", nargs="+", choices=LAYERS, default=["A", "B", "C"])
    add("--tokens", nargs="+", type=int, default=[1, 16, 256, 2048])
    add("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    add("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    add("--lower", action="store_true", help="also peers that store fewer bits than the cell")
    add("--threads", type=int, default=os.cpu_count())
    add("--rounds", type=int, default=7)
    add("--turn-seconds", type=float, default=0.3)
    add("--cache", default=str(Path(tempfile.gettempdir()) / "moe-export-layers"))
    add("--json", metavar="FILE")
    return parser.parse_args()


def _in_a_process(group: Group) -> tuple[list[dict[str, Any]], list[str]]:
    # Spawned: a forked child would have its parent's thread pools, without their threads.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, group).result()


def _measured(group: Group) -> tuple[list[dict[str, Any]], list[str]]:
    left_out: list[str] = []

    def say(line: str) -> None:
        if line in left_out:
            return
        left_out.append(line)
        print(line, file=sys.stderr, flush=True)

    return measure(group, say), left_out


def _machine(threads: int) -> dict[str, Any]:
    name = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": name, "threads": threads, "isa": _isa(), "versions": versions}


def _isa() -> str | None:
    from moe_export.errors import MissingEnvironmentError
    from moe_export.runtime import kernels

    try:
        return kernels.level()
    except MissingEnvironmentError:
        return None


_HEAD = (
    "layer", "T", "cell", "engine", "ms", "±IQR/2", "tokens/s", "of read", "of f32", "of bf16",
    "x ours", "error", "own bits",
)  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each row; the best peer of a cell has a star."""
    lines = [_HEAD]
    for row in rows:
        peers = [other for other in rows if _cell(other) == _cell(row) and _is_peer(other)]
        best = _is_peer(row) and row is min(peers, key=lambda peer: peer["milliseconds"])
        engine = row["engine"]
        if row["engine_precision"] != row["precision"]:
            engine += f" {row['engine_precision']}"
        low, high = row["quartiles"]
        lines.append(
            (
                row["layer"],
                str(row["tokens"]),
                row["precision"],
                engine + (" *" if best else ""),
                f"{row['milliseconds']:.3f}",
                f"{(high - low) / 2 / row['milliseconds']:.0%}",
                f"{row['tokens_per_second']:.0f}",
                f"{row['bandwidth_share']:.2f}",
                _number(row["peak_share_f32"]),
                _number(row["peak_share_bf16"]),
                "" if row["engine"] == OURS else _number(row["slower_than_ours"]),
                f"{row['error']:.1e}",
                f"{row['error_of_stored']:.1e}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return [
        "  ".join(
            word.ljust(width) if column < 4 else word.rjust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def _cell(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["layer"], row["tokens"], row["precision"]


def _is_peer(row: dict[str, Any]) -> bool:
    return row["engine"] not in OWN


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
