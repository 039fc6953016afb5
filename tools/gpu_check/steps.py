"""What is checked on a GPU, step by step; each says what it saw, or why it was not run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_export.doctor import examine
from moe_export.engines.ask import capabilities
from moe_export.engines.flavours import FLAVOURS, require
from moe_export.engines.gpu import Gpu, find_gpu
from moe_export.errors import MissingEnvironmentError, MoeExportError
from moe_export.runtime import cuda_kernels
from tools.gpu_check import timings

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("f32", "f16", "bf16", "int8", "int8:32", "int4")


@dataclass(frozen=True)
class Seen:
    """What a step found: ``passed``, ``failed`` or ``not run``, and the facts behind it."""

    status: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A step by name; ``run`` is told whether the check is a small one."""

    name: str
    run: Callable[[bool], Seen]

    def timed(self, small: bool) -> dict[str, Any]:
        """What it saw, and how long it took."""
        started = time.perf_counter()
        try:
            seen = self.run(small)
        except MoeExportError as error:
            seen = Seen("failed", {"error": str(error)})
        seconds = round(time.perf_counter() - started, 1)
        return {"name": self.name, "status": seen.status, "seconds": seconds, **seen.facts}


def machine(_: bool) -> Seen:
    """The GPU, its driver and what else is installed."""
    findings = {each.name: each.found or f"missing: {each.missing}" for each in examine()}
    return Seen("passed" if isinstance(find_gpu(), Gpu) else "failed", {"found": findings})


# Tests of what ships, not of its twin for the host.
SHIPPED = "shipped or begin_anywhere or gpu_harness"


def plugins(small: bool) -> Seen:
    """The plugin library that ships, driven by the harness, on the shared problems."""
    return _tested("test_plugin_results.py", SHIPPED, small)


def ort_ops(small: bool) -> Seen:
    """ONNX Runtime's custom ops that ship, driven by their harness, on the shared problems."""
    return _tested("test_ort_cuda_results.py", SHIPPED, small)


def ort_provider(small: bool) -> Seen:
    """The same ops in the CUDA provider of this machine's ONNX Runtime."""
    why = cuda_kernels.why_not()
    if why is not None:
        return Seen("not run", {"why": why})
    return _tested("test_ort_cuda_provider.py", "solves", small)


def _tested(file: str, wanted: str, small: bool) -> Seen:
    if small:
        wanted = f"({wanted}) and (even or Router)"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"--junit-xml={report}"]
        # The warnings of whatever is installed here are not what is checked.
        done = subprocess.run(
            [*command, "-W", "default", "-k", wanted, f"tests/gpu/{file}"],
            cwd=ROOT,
            # A driver that is named is taken as it is, and nothing stands in for it.
            env={"MOE_EXPORT_CUDA_DRIVER": "libcuda.so.1", **os.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            return Seen("failed", {"pytest": done.stdout[-2000:] + done.stderr[-2000:]})
        suite = next(iter(ElementTree.parse(report).getroot().iter("testsuite")))  # noqa: S314
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    run = counts["tests"] - counts["skipped"]
    facts: dict[str, Any] = {"counts": counts}
    if counts["failures"] or counts["errors"]:
        return Seen("failed", {**facts, "pytest": done.stdout[-4000:]})
    return Seen("passed" if run else "not run", facts)


def engines(small: bool) -> Seen:
    """Bundles whose engines are built for this GPU, run on it, and compared with golden tensors."""
    made: dict[str, Any] = {}
    for target in FLAVOURS:
        why = _why_not(target)
        if why is not None:
            made[target] = f"not run: {why}"
            continue
        for precision in PRECISIONS[:1] if small else PRECISIONS:
            made[f"{target} {precision}"] = _engine(target, precision)
    words = [str(each) for each in made.values()]
    if any(word.startswith("failed") for word in words):
        return Seen("failed", {"engines": made})
    ran = any(word.startswith("passed") for word in words)
    return Seen("passed" if ran else "not run", {"engines": made})


def _why_not(target: str) -> str | None:
    flavour, gpu = FLAVOURS[target], find_gpu()
    try:
        require(flavour)
    except MissingEnvironmentError as error:
        return error.message
    if isinstance(gpu, str):
        return gpu
    if not flavour.needs_gpu and gpu.sm not in capabilities(flavour):
        return f"{flavour.title} has no engines for SM {gpu.sm}"
    return None


def _engine(target: str, precision: str) -> str:
    import moe_export
    from moe_export import Bundle
    from moe_export.validate import validate
    from tools.gpu_check.model import example, model

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model.moe"
        moe_export.export(
            model(),
            output=output,
            example_inputs=example(),
            target=target,
            precision=precision,
            max_tokens=64,
        )
        report = validate(Bundle.open(output))
    if report.not_run:
        # A GPU runs what was built for it; what stands for one runs no TensorRT.
        status = "not run" if "MOE_EXPORT_CUDA_DRIVER" in os.environ else "failed"
        words = "; ".join(f"{what}: {why}" for what, why in report.not_run.items())
        return f"{status}: {words}"
    of_engine = [each for each in report.tensors if each.name.startswith("engine: ")]
    if not of_engine:
        return "failed: no tensor of an engine was compared"
    worst = max(each.relative_error for each in of_engine)
    verdict = "passed" if report.passed else "failed"
    return f"{verdict}: {len(of_engine)} tensors, largest relative error {worst:.1e}"


def speed(small: bool) -> Seen:
    """Experts of one layer, timed beside what else this machine has for it."""
    gpu = find_gpu()
    if isinstance(gpu, str):
        return Seen("not run", {"why": gpu})
    return Seen("passed", {"table": timings.table(small)})


STEPS = (
    Step("machine", machine),
    Step("plugins", plugins),
    Step("ort-ops", ort_ops),
    Step("ort-provider", ort_provider),
    Step("engines", engines),
    Step("speed", speed),
)
