"""The kernels that ship on the mock driver, and how far their results are from the oracle's.

MOE_EXPORT_GPU_CHECKOUT names another checkout whose kernels and launcher are to be looked at,
MOE_EXPORT_MOCK_CAPABILITY=90 the kernels of sm_90a instead of sm_80.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from moe_export.moe import tolerance
from moe_export.moe.layer import ExpertsSpec, RouterSpec
from moe_export.moe.schema import OPS
from ops.runtimes import reference_f64
from ops.test_agreement import FLOAT64_EPS, bound_of
from tools.ptx.build import CACHE, build_all

from .ptx_driver import Driver
from .ptx_launcher import Launcher, build_launcher
from .ptx_problems import ROUNDING, TYPES, Case

Array = npt.NDArray[Any]
Outputs = tuple[Array, ...]

ROOT = Path(os.environ.get("MOE_EXPORT_GPU_CHECKOUT", Path(__file__).parents[2]))
GPU = ROOT / "build" / "gpu"
# Compute capability of the mock device; what it runs is PTX of that architecture.
CAPABILITY = os.environ.get("MOE_EXPORT_MOCK_CAPABILITY", "80")
FOLDER = GPU / "ptx" / {"80": "", "90": "sm_90a"}[CAPABILITY]
PTX = sorted(p for p in FOLDER.glob("*.ptx") if not re.match(r"sm_\d+", p.name))
NO_KERNELS = "no GPU kernels: python tools/gpu/compile_kernels.py --out build/gpu"


@dataclass
class Device:
    """The launcher on the mock driver, and the folder of its kernels."""

    driver: Driver
    launcher: Launcher
    folder: Path

    def solve(self, case: Case) -> Outputs:
        problem, how = case.problem, case.problem.attributes
        inputs, dtype = dict(problem.inputs), TYPES[case.type]
        if problem.op == "Router":
            assert isinstance(problem.spec, RouterSpec)
            bias, scale = inputs.get("correction_bias"), inputs.get("expert_scale")
            return self.launcher.route(inputs["router_logits"], problem.spec, bias, scale)
        if problem.op == "Dispatch":
            return self.launcher.dispatch(inputs["topk_ids"], int(how["num_experts"]))
        if problem.op == "Combine":
            rows = inputs["y_sorted"].astype(dtype)
            return (self.launcher.combine(rows, inputs["order"], inputs["topk_weights"]),)
        if problem.op == "GroupedMatMul":
            inputs["x_sorted"] = inputs["x_sorted"].astype(dtype)
            block, row_format = int(how.get("block_size", 0)), str(how.get("row_format", "f32"))
            return (self.launcher.grouped_matmul(inputs, block, row_format),)
        assert isinstance(problem.spec, ExpertsSpec)
        inputs["x"] = inputs["x"].astype(dtype)
        return (self.launcher.experts(problem.spec, inputs),)


@pytest.fixture(scope="module")
def device() -> Device:
    if not PTX:
        pytest.skip(NO_KERNELS)
    folder = CACHE / f"moe_kernels_{CAPABILITY}"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.so"):
        if left.stem not in {p.stem for p in PTX}:
            left.unlink()
    build_all(PTX, folder)
    driver = Driver(folder)
    launcher = Launcher(driver, build_launcher(ROOT / "plugins" / "kernels", GPU))
    return Device(driver, launcher, folder)


def excess(case: Case, got: Outputs) -> float:
    """How many times the bound the largest error is; raises where what must be equal is not."""
    exact = reference_f64(case.problem)
    worst = 0.0
    relative, absolute = ROUNDING[case.type]
    for output, found, true in zip(OPS[case.problem.op].outputs, got, exact, strict=True):
        assert found.shape == true.shape
        if output.type == "int32":
            np.testing.assert_array_equal(found, true)
            continue
        bound = bound_of(case.problem, exact, tolerance.FLOAT32_EPS)
        bound = bound + bound_of(case.problem, exact, FLOAT64_EPS)
        finite = np.isfinite(true)
        bound[finite] += relative * (np.abs(true[finite]) + bound[finite]) + absolute
        np.testing.assert_array_equal(np.isnan(found), np.isnan(true))
        np.testing.assert_array_equal(found[~finite], true[~finite].astype(found.dtype))
        error = np.abs(found[finite].astype(np.float64) - true[finite])
        beyond = error / np.maximum(bound[finite], np.finfo(np.float64).tiny)
        worst = max(worst, beyond.max(initial=0))
    return worst
