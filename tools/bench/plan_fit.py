"""Measure what exports cost, and fit the coefficients of ``moe_export/plan.py`` to it.

    python tools/bench/plan_fit.py [--keep measurements.json]
    python tools/bench/plan_fit.py --fit measurements.json

Each model is saved as a checkpoint and exported by a process of its own, whose peak resident
memory and processor time the kernel counts (``wait4``).  Processor time rather than wall time, so
that a busy machine changes little.  One thread each.  What of the memory is no page of a file the
process itself looks at, fifty times in a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MIB = 2**20

# Style, layers, experts per layer, hidden and intermediate size: 1 to 12 blocks, 4 to 64 experts,
# 0.4 to 400 MiB of weights, and pairs that differ in one number only.
MODELS = [
    ("listed", 1, 4, 64, 128),
    ("stacked", 1, 4, 64, 128),
    ("listed", 4, 8, 64, 128),
    ("stacked", 12, 8, 64, 128),
    ("listed", 2, 64, 64, 128),
    ("stacked", 2, 64, 128, 256),
    ("listed", 12, 8, 128, 256),
    ("listed", 2, 16, 512, 1024),
    ("stacked", 4, 16, 256, 512),
    ("stacked", 2, 32, 512, 1024),
    ("listed", 6, 16, 512, 1024),
    ("stacked", 12, 8, 512, 800),
]

EXPORT = """
import json, sys, threading
import torch
torch.set_num_threads(1)
from moe_export import pipeline, plan
from moe_export.budget import memory_in_use
from moe_export.spec import export_spec

ended, seen = threading.Event(), []

def look():
    while not ended.wait(0.02):
        seen[:] = [max([*seen, memory_in_use()])]

def load(spec, load=pipeline.load):
    loaded = load(spec)
    print(json.dumps(plan.facts_as_dict(plan.facts(loaded))), flush=True)
    return loaded

pipeline.load = load
looking = threading.Thread(target=look, daemon=True)
looking.start()
pipeline.run(export_spec(sys.argv[1], output=sys.argv[2], python_path=[sys.argv[3]]))
ended.set()
looking.join()
print(*seen)
"""

SAVE = """
import json, sys
import torch, moe_export, plan_models
config = json.loads(sys.argv[2])
torch.manual_seed(0)
tokens = torch.randint(0, 256, (2, 16))
moe_export.save_checkpoint(plan_models.stack(**config), sys.argv[1], factory="plan_models:stack",
                           config=config, example_inputs=(tokens,))
"""


def measure(
    style: str, layers: int, experts: int, hidden: int, intermediate: int
) -> dict[str, Any]:
    """One export: what the plan knows beforehand, and what it cost."""
    config = {
        "style": style,
        "layers": layers,
        "experts": experts,
        "hidden": hidden,
        "intermediate": intermediate,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    with tempfile.TemporaryDirectory() as folder:
        model, output = Path(folder, "model.pt"), Path(folder, "model.moe")
        command = [sys.executable, "-c", SAVE, str(model), json.dumps(config)]
        subprocess.run(command, check=True, env=environment)
        command = [sys.executable, "-c", EXPORT, str(model), str(output), str(HERE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            answer = child.stdout.read()
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"the export of {config} failed")
        facts, own = answer.splitlines()
        files = [path for path in output.rglob("*") if path.is_file()]
        return {
            "config": config,
            "facts": json.loads(facts),
            "peak_bytes": used.ru_maxrss * 1024,
            "own_bytes": int(own),
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "disk_bytes": sum(path.stat().st_size for path in files),
            "data_bytes": (output / "onnx/model.onnx.data").stat().st_size,
            "golden_bytes": (output / "golden/golden.safetensors").stat().st_size,
        }


def fit(rows: list[dict[str, Any]], columns: dict[str, Any], key: str) -> dict[str, float]:
    """Least squares of relative error, non-negative; printed with each model's error."""
    design = np.array([[feature(row["facts"]) for feature in columns.values()] for row in rows])
    cost = np.array([row[key] for row in rows])
    chosen = _nonnegative(design / cost[:, None], np.ones(len(rows)))
    print(
        f"\n{key}: "
        + " + ".join(f"{c:.4g} * {name}" for c, name in zip(chosen, columns, strict=True))
    )
    for number, row in enumerate(rows):
        others = np.arange(len(rows)) != number
        left_out = _nonnegative((design / cost[:, None])[others], np.ones(others.sum()))
        print(
            f"  {row['config']['style']:8s} L{row['config']['layers']:<3d}"
            f"E{row['config']['experts']:<4d} {row['facts']['weight_bytes'] / MIB:7.1f} MiB"
            f"  measured {cost[number]:12.4g}"
            f"  error {design[number] @ chosen / cost[number] - 1:+6.1%}"
            f"  left out {design[number] @ left_out / cost[number] - 1:+6.1%}"
        )
    return dict(zip(columns, chosen, strict=True))


def _nonnegative(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares whose negative coefficients are dropped, the most negative first."""
    active = list(range(design.shape[1]))
    while True:
        solution = np.linalg.lstsq(design[:, active], target, rcond=None)[0]
        if (solution >= 0).all():
            break
        del active[int(solution.argmin())]
    full = np.zeros(design.shape[1])
    full[active] = solution
    return full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="write the measurements here")
    parser.add_argument("--fit", type=Path, help="fit these measurements, measure nothing")
    options = parser.parse_args()
    if options.fit:
        rows = json.loads(options.fit.read_text())
    else:
        rows = []
        for model in MODELS:
            rows.append(measure(*model))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if options.keep:
        options.keep.write_text(json.dumps(rows, indent=1))
    for row in rows:  # the weights themselves are resident once; what is fitted is the rest
        row["other_bytes"] = row["peak_bytes"] - row["facts"]["weight_bytes"]
    peak = {
        "1": lambda facts: 1.0,
        "elements": lambda facts: facts["elements"],
        "largest block": lambda facts: max(b["elements"] for b in facts["blocks"]),
    }
    seconds = {
        "1": lambda facts: 1.0,
        "blocks": lambda facts: len(facts["blocks"]),
        "tensors": lambda facts: facts["tensors"],
        "elements": lambda facts: facts["elements"],
        "visits": lambda facts: sum(b["experts"] * b["elements"] for b in facts["blocks"]),
    }
    fit(rows, peak, "other_bytes")
    fit(rows, peak, "own_bytes")
    fit(rows, seconds, "cpu_seconds")


if __name__ == "__main__":
    main()
