"""Graphs as the bytes of ONNX files whose weights lie in the data file beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from moe_export.bundle.weights import Extent
from moe_export.forms import Weight
from moe_export.manifest import TensorInfo


def graph_to_bytes(
    model: ir.Model, weights: Mapping[str, Weight], extents: Mapping[str, Extent]
) -> bytes:
    """The ONNX file of ``model``, each initializer of ``weights`` at its extent.

    Other initializers keep their values in the graph.  ``model`` is left alone; equal models give
    equal bytes.  Raises ``ValueError`` where an initializer has no value or another type or shape
    than its weight.
    """
    copy = model.clone()
    for name, value in copy.graph.initializers.items():
        if name in weights:
            value.const_value = _external(value, weights[name], extents[name])
        elif value.const_value is None:
            raise ValueError(f"initializer {name!r} has neither a value nor a weight")
    return bytes(ir.to_proto(copy).SerializeToString(deterministic=True))


def _external(value: ir.Value, weight: Weight, extent: Extent) -> ir.ExternalTensor:
    dtype = ir.DataType.from_numpy(weight.dtype)
    if value.dtype not in (None, dtype):
        raise ValueError(f"initializer {value.name!r} is {value.dtype}, its weight {dtype}")
    if value.shape is not None and tuple(value.shape) != weight.shape:
        raise ValueError(f"initializer {value.name!r} is {value.shape}, its weight {weight.shape}")
    return ir.ExternalTensor(
        extent.location,
        extent.offset,
        extent.length,
        dtype,
        shape=ir.Shape(weight.shape),
        name=value.name or "",
    )


def signature(values: Iterable[ir.Value]) -> tuple[TensorInfo, ...]:
    """Names, dtypes and shapes of a graph's inputs or outputs."""
    return tuple(_tensor_info(value) for value in values)


def _tensor_info(value: ir.Value) -> TensorInfo:
    if value.name is None or value.dtype is None or value.shape is None:
        raise ValueError(f"input or output {value.name!r} has no name, type or rank")
    dims = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return TensorInfo(name=value.name, dtype=value.dtype.numpy().name, shape=dims)
