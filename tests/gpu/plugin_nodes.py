"""The problems of ``problems.py`` as nodes that TensorRT's plugins take (``docs/plugins.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import AttributeValue, ExpertsSpec
from moe_export.moe.schema import OPS
from problems import Problem, all_problems

Array = npt.NDArray[Any]

PLUGINS = ("Router", "Experts", "Dispatch", "GroupedMatMul", "Combine")
ROW_TYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
# Inputs and outputs that have the type of a node's rows.
ROWS = ("x", "x_sorted", "y_sorted")


@dataclass(frozen=True, kw_only=True)
class PluginNode:
    """An op's node as TensorRT gets it: only inputs that are present, in the schema's order."""

    op: str
    attributes: Mapping[str, AttributeValue]
    inputs: Mapping[str, Array]

    def all_attributes(self) -> dict[str, AttributeValue]:
        return {**self.attributes, "input_names": ",".join(self.inputs)}


def on_gpu(problem: Problem, row_type: str = "f32") -> Problem | None:
    """The problem as a GPU may be given it, or None where there is no such thing.

    Zero points are left out, scales rounded to bfloat16, and rows given as ``row_type``.  What rows
    are rounded to before each matrix is what GPU kernels have for the weights.
    """
    if problem.op not in PLUGINS:
        return None
    inputs = {name: array for name, array in problem.inputs.items() if not name.endswith("zeros")}
    for name, array in inputs.items():
        if name.endswith("scales") and name != "expert_scale":
            inputs[name] = array.astype(ml_dtypes.bfloat16).astype(np.float32)
        if name in ROWS:
            with np.errstate(over="ignore"):  # what float16 does not hold is infinite
                inputs[name] = array.astype(ROW_TYPES[row_type]).astype(np.float32)
        if array.dtype == ml_dtypes.int4 and array.shape[-1] % 2:
            return None
    attributes, spec = dict(problem.attributes), problem.spec
    if "row_format" in attributes:
        row_format = _row_format(str(attributes["weight_format"]), str(attributes["row_format"]))
        attributes["row_format"] = row_format
        spec = replace(spec, row_format=row_format) if isinstance(spec, ExpertsSpec) else spec
    return replace(problem, inputs=inputs, attributes=attributes, spec=spec)


def _row_format(weight_format: str, wanted: str) -> str:
    if weight_format == "bf16" and wanted in ("f32", "bf16"):
        return wanted
    return "bf16" if weight_format in ("bf16", "int8", "int4") else "f32"


def node_of(problem: Problem, row_type: str = "f32") -> PluginNode:
    """The node of a problem that ``on_gpu`` gave: gates before values, types as the plugin has."""
    attributes = dict(problem.attributes)
    interleaved = attributes.get("gate_layout") == "interleaved" and attributes.get("gated") == 1
    if interleaved:
        attributes["gate_layout"] = "concatenated"
    inputs = {}
    for port in OPS[problem.op].inputs:
        if port.name not in problem.inputs:
            continue
        array = problem.inputs[port.name]
        if interleaved and port.name.startswith("up"):
            array = np.concatenate([array[:, ::2], array[:, 1::2]], axis=1)
        if port.type == "scale":
            array = array.astype(ml_dtypes.bfloat16)
        if port.name in ROWS:
            array = array.astype(ROW_TYPES[row_type])
        inputs[port.name] = array
    return PluginNode(op=problem.op, attributes=attributes, inputs=inputs)


def gpu_problems(row_type: str = "f32") -> dict[str, Problem]:
    """All problems that the GPU may be given, by name."""
    problems = {str(problem): on_gpu(problem, row_type) for problem in all_problems()}
    return {name: problem for name, problem in problems.items() if problem is not None}


def packed(array: Array) -> Array:
    """The bytes as TensorRT holds them: int4 two to a byte, the first in the low half."""
    if array.dtype != ml_dtypes.int4:
        return np.ascontiguousarray(array)
    nibbles = array.astype(np.int8).reshape(-1).view(np.uint8) & 15
    return nibbles[::2] | (nibbles[1::2] << 4)
