"""Graphs of one node without a body, and a session that has the native kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from moe_export.moe.schema import DOMAIN, OPS, VERSION
from moe_export.runtime import kernels

Array = npt.NDArray[Any]
Outputs = tuple[Array, ...]


def model(
    op: str,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, Array],
    *,
    fed: Collection[str],
    name: str = "a_node",
) -> bytes:
    """One node of ``op``; the inputs named in ``fed`` are the graph's, the rest its constants."""
    schema = OPS[op]
    values = {key: _value(key, array, is_fed=key in fed) for key, array in inputs.items()}
    arguments = [values.get(input.name) for input in schema.inputs]
    while arguments and arguments[-1] is None:
        arguments.pop()
    node = ir.Node(
        DOMAIN,
        op,
        arguments,
        ir.convenience.convert_attributes(dict(attributes)),
        outputs=[_output(output.name, output.type) for output in schema.outputs],
        name=name,
    )
    graph = ir.Graph(
        [value for value in values.values() if value.const_value is None],
        node.outputs,
        nodes=[node],
        initializers=[value for value in values.values() if value.const_value is not None],
        opset_imports={"": 21, DOMAIN: VERSION},
        name=op,
    )
    return ir.serde.serialize_model(ir.Model(graph, ir_version=10)).SerializeToString()


def session(model: bytes, *, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    kernels.register(options)
    return ort.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], enable_fallback=False
    )


def run(
    op: str,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, Array],
    *,
    fed: Collection[str] | None = None,
    threads: int = 1,
) -> Outputs:
    """The node's outputs; what is float32 or int32 and no weight is fed, unless ``fed`` says."""
    if fed is None:
        weights = {i.name for i in OPS[op].inputs if i.type in ("weight", "scale")}
        fed = inputs.keys() - weights
    made = session(model(op, attributes, inputs, fed=fed), threads=threads)
    return tuple(made.run(None, {key: inputs[key] for key in inputs if key in fed}))


def _value(name: str, array: Array, *, is_fed: bool) -> ir.Value:
    tensor = ir.tensor(array)
    if is_fed:
        axes = [f"{name}_{axis}" for axis in range(array.ndim)]
        return ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(tensor.dtype))
    return ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def _output(name: str, kind: str) -> ir.Value:
    dtype = ir.DataType.INT32 if kind == "int32" else ir.DataType.FLOAT
    return ir.Value(name=name, type=ir.TensorType(dtype))
