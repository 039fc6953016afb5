"""Check moe-export on the GPU of this machine, and write one report.

usage: python -m tools.gpu_check [--out gpu-report.json] [--small] [--steps NAME ...]

First `make gpu`.  Exits with 0 where all that was run passed, 4 where something failed and 5 where
there is no GPU.  What was not run is listed with its reason and counts neither way.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from moe_export.engines.gpu import find_gpu
from tools.gpu_check.steps import STEPS


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("gpu-report.json"))
    options.add_argument("--small", action="store_true", help="a check of seconds, to try it")
    options.add_argument("--steps", nargs="+", choices=[s.name for s in STEPS], default=[])
    chosen = options.parse_args()
    stand_in = os.environ.get("MOE_EXPORT_CUDA_DRIVER")
    if stand_in is not None:
        # A library that is loaded is found by its own name: this one becomes libcuda.so.1.
        ctypes.CDLL(stand_in, mode=os.RTLD_NOW | os.RTLD_GLOBAL)
    gpu = find_gpu()
    if isinstance(gpu, str):
        print(f"error: {gpu}\nhint: run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 5
    made = []
    for step in STEPS:
        if chosen.steps and step.name not in chosen.steps:
            continue
        made.append(step.timed(chosen.small))
        _show(made[-1])
    report = {"gpu": gpu.name, "sm": gpu.sm, "stand_in_driver": stand_in, "steps": made}
    chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"report: {chosen.out}")
    return 4 if any(step["status"] == "failed" for step in made) else 0


def _show(step: dict[str, Any]) -> None:
    print(f"{step['name']}: {step['status']} ({step['seconds']} s)")
    for name, value in step.items():
        if name in ("name", "status", "seconds"):
            continue
        if isinstance(value, dict):
            for key, fact in value.items():
                print(f"  {key}: {fact}")
        elif isinstance(value, list):
            for row in value:
                print(f"  {json.dumps(row)}")
        else:
            print(f"  {name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
