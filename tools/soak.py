"""Whether a generator stays what it is for as long as a service runs: its answers, and its memory.

    python tools/soak.py BUNDLE [--image FILE] [--runs 10000] [--threads 8] [--requests 1000]

Threads ask the same generator many questions, and every answer must be what it is alone.  Then a
session runs and a generator answers many times, and memory in use must not grow: a line is laid
through what was seen in the second half, and fails where it rises by more than --grow bytes a run:
by default less than one array that is left behind, which has 112 without its numbers.
Ends with 1 where either is not so.
"""

from __future__ import annotations

import argparse
import mmap
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from moe_export.runtime import Bundle, Generator, Session

WORDS = ("which digit", "what is it?", "and what is that?", "is it even", "hello")
_LOOKS = 200


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def threads_agree(bundle: Bundle, image: Any, threads: int, requests: int) -> bool:
    """Greedy and drawn answers of many threads are those of one."""
    with Generator(bundle, threads=1) as generator:

        def ask(number: int) -> Any:
            drawn = {"temperature": 1.0, "seed": number % 7} if number % 3 else {}
            prompt = WORDS[number % len(WORDS)]
            return generator.generate(image, prompt, max_new_tokens=6, **drawn)

        distinct = 3 * 7 * len(WORDS)
        expected = [ask(number) for number in range(distinct)]
        started = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            answers = pool.map(ask, range(threads * requests))
            wrong = sum(answer != expected[n % distinct] for n, answer in enumerate(answers))
    print(
        f"{threads} threads x {requests} requests: {wrong} answers differ from those of one,"
        f" {time.monotonic() - started:.0f} s"
    )
    return not wrong


def memory_is_flat(name: str, run: Callable[[int], object], runs: int, grow: float) -> bool:
    """Bytes in use against the number of the run, the first half left to fill caches and pools."""
    seen = []
    for number in range(runs):
        run(number)
        if number >= runs // 2 and number % max(1, runs // _LOOKS) == 0:
            seen.append((number, resident_bytes()))
    slope, _ = np.polyfit(*np.array(seen, np.float64).T, 1)
    first, last = seen[0][1], seen[-1][1]
    print(
        f"{name}: {runs} runs, {first / 2**20:.1f} MiB in the middle, {last / 2**20:.1f} MiB at the"
        f" end, {slope:+.1f} bytes a run"
    )
    return bool(slope <= grow)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--image")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--grow", type=float, default=64.0)
    asked = parser.parse_args()
    bundle = Bundle.open(asked.bundle)
    component = next(iter(bundle.manifest.components))
    case = next(case for case in bundle.golden().cases if case.component == component)
    inputs = dict(case.inputs)
    passed = [threads_agree(bundle, asked.image, asked.threads, asked.requests)]
    with Session(bundle, component=component, threads=1) as session:
        passed.append(
            memory_is_flat("Session.run", lambda _: session.run(inputs), asked.runs, asked.grow)
        )
    with Generator(bundle, threads=1) as generator:

        def ask(number: int) -> object:
            prompt = WORDS[number % len(WORDS)] + " " * (number % 11)
            return generator.generate(
                asked.image, prompt, max_new_tokens=3, temperature=1.0, seed=number
            )

        passed.append(memory_is_flat("Generator.generate", ask, asked.runs, asked.grow))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
