"""What exporting costs: CPU seconds and peak memory of moe-export beside other exporters.

    python tools/bench/exports.py --json exports.json
    python tools/bench/exports.py --cells 2x32 4x32
    python tools/bench/exports.py --cells '16x128, 11.1 B' --exporters moe-export --precision int8

Peers are those of models.py, which sets them up.  docs/bench.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model_contenders import OURS, Contender
from model_sizes import PROMPT, SMALL_PROMPT, Prompt, Sizes
from model_turns import Stage, directory, our_package

EXPORTERS = (
    Contender(OURS, "f32", "model_ours"),
    Contender("transformers onnx", "f32", "model_transformers_onnx"),
    Contender("transformers openvino", "f32", "model_openvino"),
)


def of_precision(exporter: Contender, precision: str) -> Contender:
    """Ours in that precision; others know float32 alone."""
    if not exporter.is_ours:
        return exporter
    flags = ["--precision", precision, "--dense-precision", precision]
    return replace(exporter, precision=precision, options={"flags": flags})


def narrow(layers: int, experts: int) -> Sizes:
    """So narrow that what costs is the graph, not the weights."""
    return Sizes(
        layers=layers,
        experts=experts,
        hidden=128,
        intermediate=64,
        heads=2,
        kv_heads=1,
        head_dim=64,
        vocabulary=512,
        vision_layers=3,
        vision_hidden=64,
        vision_heads=2,
        vision_intermediate=128,
        positions=64,
    )


CELLS: dict[str, tuple[Sizes, Prompt]] = {
    **{f"{layers}x32": (narrow(layers, 32), SMALL_PROMPT) for layers in (2, 4, 8, 12)},
    **{f"4x{experts}": (narrow(4, experts), SMALL_PROMPT) for experts in (8, 128)},
    "12x64, 1.44 B": (Sizes(), PROMPT),
}

LARGE = "16x128, 11.1 B"
"""Layers of Qwen3-VL-30B-A3B, its tower and its vocabulary: 22 GB, for a machine of 24."""

CELLS[LARGE] = (
    Sizes(
        layers=16,
        experts=128,
        hidden=2048,
        intermediate=768,
        heads=32,
        vocabulary=151936,
        vision_layers=27,
        vision_hidden=1152,
        vision_heads=16,
        vision_intermediate=4304,
    ),
    PROMPT,
)


@dataclass(frozen=True)
class Cost:
    """Of one export."""

    cell: str
    parameters: int
    exporter: str
    cpu_seconds: float
    peak_mib: float
    file_mib: float


def main() -> None:
    arguments = _arguments()
    cache = Path(arguments.cache).resolve()
    peers = Path(arguments.peers).resolve() if arguments.peers else cache / "peers"
    costs: list[Cost] = []
    not_run: dict[str, str] = {}
    for cell in arguments.cells:
        sizes, prompt = CELLS[cell]
        stage = Stage(
            model=directory(sizes, prompt, cache, _say),
            made=cache / "exports" / sizes.name,
            peers=peers,
            threads=arguments.threads,
            cores=tuple(sorted(os.sched_getaffinity(0))[: arguments.threads]),
            new_tokens=0,
            limit=arguments.limit,
            say=_say,
        )
        for exporter in EXPORTERS:
            if exporter.name not in arguments.exporters:
                continue
            cost = _export(stage, cell, sizes, of_precision(exporter, arguments.precision))
            if isinstance(cost, str):
                not_run[f"{cell}, {exporter.name}"] = cost
            else:
                costs.append(cost)
                _say(f"{cell}: {exporter.name}: {cost.cpu_seconds:.0f} s")
            _write(arguments.json, costs, not_run)
    print("\n".join(table(costs, not_run)))


def _export(stage: Stage, cell: str, sizes: Sizes, exporter: Contender) -> Cost | str:
    """One export in a process of its own; its files are removed."""
    folder = stage.made / exporter.folder
    shutil.rmtree(folder, ignore_errors=True)
    try:
        why = stage.prepare(exporter)
        if why is not None:
            return why
        spent = stage.cost(exporter) or {}
        size = sum(path.stat().st_size for path in stage.files(exporter)) / 2**20
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    cpu, peak = spent["cpu_seconds"], spent["peak_mib"]
    return Cost(cell, sizes.parameters, exporter.name, cpu, peak, size)


def table(costs: Sequence[Cost], not_run: Mapping[str, str]) -> list[str]:
    """A line for each export, with its CPU seconds and memory over moe-export's."""
    ours = {each.cell: each for each in costs if each.exporter == OURS}
    lines: list[tuple[str, ...]] = [
        ("layers x experts", "exporter", "CPU s", "x ours", "peak MiB", "x ours", "files MiB")
    ]
    for each in costs:
        own = ours.get(each.cell)
        lines.append(
            (
                each.cell,
                each.exporter,
                f"{each.cpu_seconds:.1f}",
                f"{each.cpu_seconds / own.cpu_seconds:.2f}" if own else "",
                f"{each.peak_mib:.0f}",
                f"{each.peak_mib / own.peak_mib:.2f}" if own else "",
                f"{each.file_mib:.0f}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(
            word.ljust(width) if column < 2 else word.rjust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return [*text, *(f"not run: {label}: {why}" for label, why in not_run.items())]


def _write(path: str | None, costs: Sequence[Cost], not_run: Mapping[str, str]) -> None:
    if path is None:
        return
    made: dict[str, Any] = {
        "moe_export": str(our_package()),
        "load_average": os.getloadavg()[1],
        "exports": [asdict(each) for each in costs],
        "not_run": dict(not_run),
    }
    Path(path).write_text(json.dumps(made, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    names = [each.name for each in EXPORTERS]
    add(
        "--cells", nargs="+", choices=list(CELLS), default=[cell for cell in CELLS if cell != LARGE]
    )
    add("--exporters", nargs="+", choices=names, default=names)
    add("--precision", default="f32", help="of moe-export, for all products")
    add("--threads", type=int, default=os.cpu_count())
    add("--limit", type=float, default=7200, help="seconds for an export")
    add("--cache", default=str(Path(tempfile.gettempdir()) / "moe-export-models"))
    add("--peers", help="where models.py --set-up puts them, by default in the cache")
    add("--json", metavar="FILE")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
