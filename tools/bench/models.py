"""Time a whole vision-language model on moe-export and on every peer, side by side.

    python tools/bench/models.py --set-up
    python tools/bench/models.py --json models.json
    python tools/bench/models.py --layers 4 --precisions int4 --rounds 1

The model has random weights and is made in the cache folder, as is all that contenders make of it.
docs/bench.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model_contenders import CONTENDERS, OURS, Contender, chosen
from model_peers import set_up
from model_sizes import PROMPT, SMALL, SMALL_PROMPT, Sizes
from model_table import Row, Turn, row, table
from model_turns import Stage, directory, our_package, turns


def main() -> None:
    arguments = _arguments()
    cache = Path(arguments.cache).resolve()
    peers = Path(arguments.peers).resolve() if arguments.peers else cache / "peers"
    if arguments.set_up:
        set_up(peers, _say)
        return
    contenders = chosen(arguments.contenders, arguments.precisions)
    sizes = SMALL if arguments.small else Sizes(layers=arguments.layers)
    prompt = SMALL_PROMPT if arguments.small else PROMPT
    stage = Stage(
        model=directory(sizes, prompt, cache, _say),
        made=cache / "made" / sizes.name,
        peers=peers,
        threads=arguments.threads,
        cores=tuple(sorted(os.sched_getaffinity(0))[: arguments.threads]),
        new_tokens=arguments.new_tokens,
        limit=arguments.limit,
        say=_say,
        keep=arguments.keep,
    )
    not_run = {}
    for contender in contenders:
        why = stage.prepare(contender)
        if why is not None:
            not_run[contender.label] = why
            _say(f"not run: {contender.label}: {why}")
    if arguments.prepare:
        return
    ready = [each for each in contenders if each.label not in not_run]
    found, failed, reads = _measure(stage, ready, arguments.rounds)
    not_run |= failed
    rows = _rows(stage, [each for each in ready if each.label not in failed], found)
    machine = _machine(arguments.threads, reads)
    print("\n".join([_title(sizes, machine), "", *table(rows, not_run)]), flush=True)
    if arguments.json:
        result = {
            "machine": machine,
            "sizes": {**asdict(sizes), "parameters": sizes.parameters},
            "prompt": json.loads((stage.model / "prompt.json").read_text()),
            "new_tokens": arguments.new_tokens,
            "rows": [each.facts() for each in rows],
            "turns": found,
            "made": {each.label: stage.cost(each) for each in ready},
            "not_run": not_run,
        }
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    precisions = list(dict.fromkeys(each.precision for each in CONTENDERS))
    add("--set-up", action="store_true", help="install and build the peers, then stop")
    add("--prepare", action="store_true", help="export and convert for all, then stop")
    add("--keep", action="store_true", help="use what older code exported, do not export anew")
    add("--layers", type=int, default=Sizes.layers)
    add("--small", action="store_true", help="a model of seconds, to try the program")
    add("--contenders", nargs="+", default=[], metavar="NAME")
    add("--precisions", nargs="+", choices=precisions, default=precisions)
    add("--rounds", type=int, default=5)
    add("--new-tokens", type=int, default=64)
    add("--threads", type=int, default=os.cpu_count())
    add("--limit", type=float, default=3600, help="seconds for a step of a contender")
    add("--cache", default=str(Path(tempfile.gettempdir()) / "moe-export-models"))
    add("--peers", help="where --set-up puts them, by default in the cache")
    add("--json", metavar="FILE")
    return parser.parse_args()


def _measure(
    stage: Stage, contenders: list[Contender], rounds: int
) -> tuple[dict[str, dict[int, Turn]], dict[str, str], list[float]]:
    """Turns by label and round, the reasons of those who failed, and bandwidths between turns."""
    by_label = {each.label: each for each in contenders}
    found: dict[str, dict[int, Turn]] = {label: {} for label in by_label}
    failed: dict[str, str] = {}
    reads: list[float] = []
    sample = _probe(stage.threads)
    for number, label in turns(list(by_label), rounds):
        if label in failed:
            continue
        reads.append(sample())
        turn = stage.measure(by_label[label])
        if isinstance(turn, str):
            failed[label] = turn
            _say(f"not run: {label}: {turn}")
            continue
        found[label][number] = {**turn, "read_bytes_per_second": reads[-1]}
        _say(
            f"round {number + 1}: {label}: prefill {turn['prefill']:.3f} s, "
            f"decode {turn['decode'] * 1e3:.1f} ms"
        )
    return found, failed, reads


def _probe(threads: int) -> Callable[[], float]:
    from moe_export.bench.machine import bandwidth_probe

    return bandwidth_probe(threads) or (lambda: float("nan"))


def _rows(
    stage: Stage, contenders: list[Contender], found: dict[str, dict[int, Turn]]
) -> list[Row]:
    return [
        row(
            each,
            found[each.label],
            ours=found.get(f"{OURS} {each.precision}", {}),
            file_bytes=sum(path.stat().st_size for path in stage.files(each)),
        )
        for each in contenders
    ]


def _machine(threads: int, reads: list[float]) -> dict[str, Any]:
    name = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return {
        "cpu": name,
        "threads": threads,
        "moe_export": str(our_package()),
        "read_bytes_per_second": statistics.median(reads) if reads else None,
        "load_average": os.getloadavg()[1],
    }


def _title(sizes: Sizes, machine: dict[str, Any]) -> str:
    read = machine["read_bytes_per_second"]
    speed = f", reads {read / 1e9:.1f} GB/s" if read else ""
    return (
        f"{sizes.name}, {sizes.parameters / 1e9:.2f} B parameters, on {machine['cpu']}, "
        f"{machine['threads']} threads{speed}; load average {machine['load_average']:.1f}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
