"""Whatever runs an op: each runtime takes a problem and gives the op's outputs as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor

from moe_export.lower.functions import OPSET_VERSION, function_for, overload_of
from moe_export.moe import reference
from moe_export.moe.schema import DOMAIN, OPS, VERSION, OpSchema
from moe_export.rewrite import torch_ops  # noqa: F401 - registers the ops
from problems import Problem

Array = npt.NDArray[Any]
Outputs = tuple[Array, ...]

TORCH_NAMES = {
    "Router": "router",
    "Experts": "experts",
    "Dispatch": "dispatch",
    "GroupedMatMul": "grouped_matmul",
    "Combine": "combine",
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
    run = {"GroupedMatMul": reference.grouped_matmul, "Combine": reference.combine}[op]
    return (run(**inputs),)


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
    fed = {name: array for name, array in inputs.items() if _is_fed(array)}
    key = (op, overload_of(op, attributes, tuple(inputs)), opset_version)
    session = _SESSIONS.get(key) if fed.keys() == inputs.keys() else None
    if session is None:
        model = body_model(op, attributes, inputs, opset_version=opset_version)
        session = _session(model)
    if fed.keys() == inputs.keys():
        _SESSIONS[key] = session
    return tuple(session.run(None, fed))


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


# A graph without constants answers every problem of its variant.
_SESSIONS: dict[tuple[str, str, int], ort.InferenceSession] = {}


def _is_fed(array: Array) -> bool:
    return array.dtype in (np.float32, np.int32)


def body_model(
    op: str,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, Array],
    *,
    opset_version: int = OPSET_VERSION,
) -> onnx.ModelProto:
    """One node of ``op`` and its function; passes the checker.

    What is float32 or int32 is an input of the graph with symbolic axes, the rest
    (weights in narrow formats) an initializer, as in a bundle.
    """
    schema = OPS[op]
    function = function_for(op, attributes, tuple(inputs), opset_version=opset_version)
    values = {name: _value(name, array) for name, array in inputs.items()}
    arguments = [values.get(input.name) for input in schema.inputs]
    node = ir.Node(
        DOMAIN,
        op,
        _trimmed(arguments),
        ir.convenience.convert_attributes(dict(attributes)),
        overload=function.overload,
        outputs=[_output(schema, index) for index in range(len(schema.outputs))],
    )
    graph = ir.Graph(
        [value for value in values.values() if value.const_value is None],
        node.outputs,
        nodes=[node],
        initializers=[value for value in values.values() if value.const_value is not None],
        opset_imports={"": opset_version, DOMAIN: VERSION},
        name=op,
    )
    model = ir.Model(graph, ir_version=10, functions=[function])
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _value(name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array)
    if _is_fed(array):
        axes = [f"{name}_{axis}" for axis in range(array.ndim)]
        return ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(tensor.dtype))
    return ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def _output(schema: OpSchema, index: int) -> ir.Value:
    output = schema.outputs[index]
    kind = ir.DataType.INT32 if output.type == "int32" else ir.DataType.FLOAT
    rank = output.shape.count(",") + 1
    shape = ir.Shape([f"{output.name}_{axis}" for axis in range(rank)])
    return ir.Value(name=output.name, shape=shape, type=ir.TensorType(kind))


def _trimmed(arguments: list[ir.Value | None]) -> list[ir.Value | None]:
    while arguments and arguments[-1] is None:
        arguments = arguments[:-1]
    return arguments


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
}
