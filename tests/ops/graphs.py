"""ONNX graphs of one node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx_ir as ir
import onnxruntime as ort

from moe_export.lower.functions import OPSET_VERSION, function_for
from moe_export.moe.schema import DOMAIN, OPS, VERSION, Output

Array = npt.NDArray[Any]


def options() -> ort.SessionOptions:
    """One thread, and no talk."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def is_fed(array: Array) -> bool:
    return array.dtype in (np.float32, np.int32, np.bool_)


def body_model(
    op: str,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, Array],
    *,
    opset_version: int = OPSET_VERSION,
) -> onnx.ModelProto:
    """One node of ``op`` and its function; passes the checker."""
    function = function_for(op, attributes, tuple(inputs), opset_version=opset_version)
    model = node_model(op, attributes, inputs, function=function, opset_version=opset_version)
    onnx.checker.check_model(model, full_check=True)
    return model


def node_model(
    op: str,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, Array],
    *,
    function: ir.Function | None = None,
    opset_version: int = OPSET_VERSION,
) -> onnx.ModelProto:
    """One node of ``op``, with the function that it calls or without any.

    What is float32, int32 or bool is an input of the graph with symbolic axes, the rest
    (weights in narrow formats) an initializer, as in a bundle.
    """
    schema = OPS[op]
    values = {name: _value(name, array) for name, array in inputs.items()}
    arguments = [values.get(input.name) for input in schema.inputs]
    node = ir.Node(
        DOMAIN,
        op,
        _trimmed(arguments),
        ir.convenience.convert_attributes(dict(attributes)),
        overload="" if function is None else function.overload,
        outputs=[_output(output, inputs) for output in schema.outputs],
    )
    graph = ir.Graph(
        [value for value in values.values() if value.const_value is None],
        node.outputs,
        nodes=[node],
        initializers=[value for value in values.values() if value.const_value is not None],
        opset_imports={"": opset_version, DOMAIN: VERSION},
        name=op,
    )
    model = ir.Model(graph, ir_version=10, functions=[] if function is None else [function])
    return ir.serde.serialize_model(model)


def _value(name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array)
    if is_fed(array):
        axes = [f"{name}_{axis}" for axis in range(array.ndim)]
        return ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(tensor.dtype))
    return ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def _output(output: Output, inputs: Mapping[str, Array]) -> ir.Value:
    kind = ir.DataType.INT32 if output.type == "int32" else ir.DataType.FLOAT
    rank = inputs["x"].ndim if output.shape.startswith("[..") else output.shape.count(",") + 1
    shape = ir.Shape([f"{output.name}_{axis}" for axis in range(rank)])
    return ir.Value(name=output.name, shape=shape, type=ir.TensorType(kind))


def _trimmed(arguments: list[ir.Value | None]) -> list[ir.Value | None]:
    while arguments and arguments[-1] is None:
        arguments = arguments[:-1]
    return arguments
