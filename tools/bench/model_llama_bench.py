"""llama.cpp's own benchmark, ``llama-bench``: text alone, without a tower or a tokenizer."""

from __future__ import annotations

import json
import os
from typing import Any

import model_llama
from model_job import Job, Measured, NotRunError
from model_process import reason
from model_process import run as run_command

prepare = model_llama.prepare


def run(job: Job) -> Measured:
    tokens = job.prompt()["input_ids"].shape[1]
    command: list[object] = [
        model_llama.binary(job, "llama-bench"), "-m", job.made / "model.gguf",
        "-t", job.threads, "-p", tokens, "-n", 0, "-r", 1, "-o", "json",
    ]  # fmt: skip
    behind: list[object] = [*command[:5], "-p", 0, "-n", job.new_tokens, "-d", tokens]
    behind += ["-r", 1, "-o", "json"]
    cores = sorted(os.sched_getaffinity(0))
    found, peak = [], 0.0
    for words in (command, behind):
        done = run_command([str(word) for word in words], cores=cores, first=True)
        if done.code:
            raise NotRunError(f"llama-bench: {reason(done)}")
        found.append(speed(done.output))
        peak = max(peak, done.peak_mib)
    return Measured(None, tokens / found[0], 1 / found[1], peak, tokens)


def speed(output: str) -> float:
    """Tokens per second of the one test in ``-o json``."""
    tests: list[dict[str, Any]] = json.loads(output)
    if len(tests) != 1:
        raise NotRunError(f"llama-bench ran {len(tests)} tests, not one")
    return float(tests[0]["avg_ts"])
