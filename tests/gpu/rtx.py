"""Graphs for TensorRT-RTX's parser and builder, and what it made of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from .plugin_harness import dynamic_axes
from .plugin_nodes import PluginNode, packed

Array = npt.NDArray[Any]

HERE = Path(__file__).parent
ONNX_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(ml_dtypes.bfloat16): TensorProto.BFLOAT16,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(ml_dtypes.int4): TensorProto.INT4,
}
OPSET, IR_VERSION = 21, 10


@cache
def python() -> str:
    """A Python that has TensorRT-RTX: this one, or the one that MOE_EXPORT_TRT_PYTHON names."""
    program = os.environ.get("MOE_EXPORT_TRT_PYTHON", sys.executable)
    command = [program, "-c", "import tensorrt_rtx_libs"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(
            f"{program} has no tensorrt_rtx (pip install tensorrt-rtx-cu13, or name another "
            "Python in MOE_EXPORT_TRT_PYTHON)"
        )
    return program


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A model, and what to build of it."""

    model: onnx.ModelProto
    sm: int = 80
    profile: dict[str, list[list[int]]] = field(default_factory=dict)
    embedded: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a graph."""

    parsed: bool
    built: bool
    errors: list[str]
    log: list[str]
    layers: list[dict[str, Any]]
    plan: bytes
    stderr: str

    def plugin_layers(self) -> list[dict[str, Any]]:
        return [layer for layer in self.layers if layer["type"] == "PLUGIN_V3"]

    def text(self) -> str:
        """The lowered graph, which lies in the plan as text."""
        start = self.plan.index(b"header {")
        return self.plan[start : self.plan.index(b"\0", start)].decode("latin-1")

    def constants(self) -> dict[str, tuple[int, str]]:
        """Bytes and type of every constant of the lowered graph."""
        found = re.findall(r"tensor=\{[^\n]*const_payload_size=[^\n]*\}", self.text())
        rows = [
            re.search(r'const_payload_size=(\d+).*?name="([^"]*)".* type=(\w+) \}', line)
            for line in found
        ]
        return {row[2]: (int(row[1]), row[3]) for row in rows if row}

    def target(self) -> str:
        return re.search(r"accelerators=\{(\w+) *\}", self.text())[1]  # type: ignore[index]


def build(library: Path | None, graphs: Sequence[Graph], folder: Path) -> list[Report]:
    """Parse and build every graph in one process of its own, which must end well."""
    specs = []
    for i, graph in enumerate(graphs):
        (folder / f"{i}.onnx").write_bytes(graph.model.SerializeToString())
        plan = folder / f"{i}.plan"
        plan.unlink(missing_ok=True)
        paths = {"model": str(folder / f"{i}.onnx"), "plan": str(plan)}
        specs.append(paths | {"sm": graph.sm, "profile": graph.profile, "embedded": graph.embedded})
    job = {"library": str(library) if library else "", "graphs": specs}
    (folder / "job.json").write_text(json.dumps(job))
    command = [python(), str(HERE / "rtx_builder.py"), str(folder / "job.json")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"exit {result.returncode}: {result.stderr[-2000:]}"
    reports = json.loads(result.stdout.splitlines()[-1])["graphs"]
    return [
        Report(
            **report,
            plan=Path(spec["plan"]).read_bytes() if report["built"] else b"",
            stderr=result.stderr,
        )
        for report, spec in zip(reports, specs, strict=True)
    ]


def tensor_of(name: str, array: Array) -> TensorProto:
    tensor = TensorProto(
        name=name, data_type=ONNX_TYPES[array.dtype], dims=array.shape, raw_data=b""
    )
    tensor.raw_data = packed(array).tobytes()
    return tensor


def model_of(
    node: PluginNode,
    *,
    outputs: Sequence[tuple[str, int, list[str | int]]],
    functions: Sequence[onnx.FunctionProto] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """One node, its weights constant, with ``attributes`` instead of or beside its own.

    ``outputs`` are names, types and shapes.  An attribute that is None is left out.
    """
    fed = dynamic_axes(node)
    given = {**node.all_attributes(), "plugin_namespace": "moe_export", **attributes}
    proto = helper.make_node(
        node.op,
        list(node.inputs),
        [name for name, _, _ in outputs],
        name="layers.0.moe",
        domain="moe_export",
        **{name: value for name, value in given.items() if value is not None},
    )
    inputs = [
        helper.make_tensor_value_info(
            name, ONNX_TYPES[array.dtype], [axis_name(name), *array.shape[1:]]
        )
        for name, array in node.inputs.items()
        if name in fed
    ]
    constants = [tensor_of(name, array) for name, array in node.inputs.items() if name not in fed]
    graph = helper.make_graph(
        [proto], "test", inputs, [helper.make_tensor_value_info(*o) for o in outputs], constants
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("moe_export", 1)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, functions=list(functions)
    )


def axis_name(name: str) -> str:
    return "S" if name in ("x_sorted", "y_sorted", "order") else "T"


def profile_of(node: PluginNode, sizes: tuple[int, int, int] = (0, 4, 64)) -> Any:
    """Shapes from the smallest to the largest, for every input that counts tokens."""
    top_k = next(
        (a.shape[1] for name, a in node.inputs.items() if name in ("topk_ids", "topk_weights")), 1
    )
    return {
        name: [
            [size * (top_k if axis_name(name) == "S" else 1), *node.inputs[name].shape[1:]]
            for size in sizes
        ]
        for name in node.inputs
        if name in dynamic_axes(node)
    }
