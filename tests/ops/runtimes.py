"""Whatever runs an op: each runtime takes a problem and gives the op's outputs as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from moe_export.lower.functions import OPSET_VERSION, overload_of
from moe_export.moe import reference
from moe_export.moe.schema import OPS
from moe_export.rewrite import torch_ops  # noqa: F401 - registers the ops
from problems import Problem

from . import kernels
from .graphs import body_model, is_fed, options

Array = npt.NDArray[Any]
Outputs = tuple[Array, ...]

TORCH_NAMES = {
    "Router": "router",
    "Experts": "experts",
    "Dispatch": "dispatch",
    "GroupedMatMul": "grouped_matmul",
    "Combine": "combine",
    "Linear": "linear",
    "CachedAttention": "cached_attention",
    "RotaryHeads": "rotary_heads",
}


def reference_f64(problem: Problem) -> Outputs:
    """The oracle in float64: the judge of all others."""
    wide = {
        name: array.astype(np.float64) if array.dtype == np.float32 else array
        for name, array in problem.inputs.items()
    }
    return _reference(problem, wide)


def reference_f32(problem: Problem) -> Outputs:
    return _reference(problem, problem.inputs)


def _reference(problem: Problem, inputs: Mapping[str, Array]) -> Outputs:
    spec, op = problem.spec, problem.op
    if op == "Router":
        rest = {name: array for name, array in inputs.items() if name != "router_logits"}
        return reference.route(inputs["router_logits"], spec, **rest)
    if op == "Experts":
        tokens = ("x", "topk_ids", "topk_weights")
        rest = {name: array for name, array in inputs.items() if name not in tokens}
        return (reference.experts(*(inputs[name] for name in tokens), spec, **rest),)
    if op == "Dispatch":
        return reference.dispatch(inputs["topk_ids"], int(problem.attributes["num_experts"]))
    if op == "Combine":
        return (reference.combine(**inputs),)
    if op == "CachedAttention":
        return reference.cached_attention(**inputs, **problem.attributes)
    if op == "RotaryHeads":
        return (reference.rotary_heads(**inputs, **problem.attributes),)
    run = {"GroupedMatMul": reference.grouped_matmul, "Linear": reference.linear}[op]
    how = {
        name: problem.attributes[name]
        for name in ("block_size", "row_format")
        if name in problem.attributes
    }
    return (run(**inputs, **how),)


def standard(problem: Problem) -> Outputs:
    """The ONNX body on stock ONNX Runtime, weights in narrow formats as constants."""
    return run_body(problem.op, problem.attributes, problem.inputs)


def run_body(
    op: str,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, Array],
    *,
    opset_version: int = OPSET_VERSION,
) -> Outputs:
    fed = {name: array for name, array in inputs.items() if is_fed(array)}
    ranks = tuple(array.ndim for array in inputs.values())
    key = (op, overload_of(op, attributes, tuple(inputs)), opset_version, ranks)
    session = _SESSIONS.get(key) if fed.keys() == inputs.keys() else None
    if session is None:
        model = body_model(op, attributes, inputs, opset_version=opset_version)
        session = _stock_session(model)
    if fed.keys() == inputs.keys():
        _SESSIONS[key] = session
    return tuple(session.run(None, fed))


def _stock_session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), options(), ["CPUExecutionProvider"])


# A graph without constants answers every problem of its variant.
_SESSIONS: dict[tuple[str, str, int, tuple[int, ...]], ort.InferenceSession] = {}


def torch_eager(problem: Problem) -> Outputs:
    outputs = run_torch(problem, problem.inputs)
    return tuple(output.numpy() for output in outputs)


def torch_eager_f64(problem: Problem) -> Outputs:
    wide = {
        name: array.astype(np.float64) if array.dtype == np.float32 else array
        for name, array in problem.inputs.items()
    }
    return tuple(output.numpy() for output in run_torch(problem, wide))


def run_torch(problem: Problem, inputs: Mapping[str, Array]) -> tuple[Tensor, ...]:
    """The PyTorch op on ``inputs``; under a ``FakeTensorMode`` the outputs are fake."""
    tensors = {name: to_torch(array) for name, array in inputs.items()}
    return call_torch(problem.op, problem.attributes, tensors)


def call_torch(
    op: str, attributes: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    arguments = [tensors.get(input.name) for input in OPS[op].inputs]
    outputs = getattr(torch.ops.moe_export, TORCH_NAMES[op])(*arguments, **attributes)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def to_torch(array: Array) -> Tensor:
    """PyTorch has no int4 (int8 holds it), and NumPy's bfloat16 is not PyTorch's."""
    if array.dtype == ml_dtypes.int4:
        array = array.astype(np.int8)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


RUNTIMES = {
    "reference-f32": reference_f32,
    "standard": standard,
    "torch-eager": torch_eager,
    **{f"ort-{level}": kernels.on_level(level) for level in kernels.LEVELS},
    "ort-panels": kernels.in_panels,
}
