"""Give the products of a portable graph a precision: stored weights, what rows are rounded to.

A weight stays a promise: it is quantised once, piece by piece, and kept on disk meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from moe_export.capture.weights import numpy_of
from moe_export.forms import OWN_NUMBERS, MarkedModel, Weight
from moe_export.lazy import LazyTensor
from moe_export.moe.quantize import Precision, facts
from moe_export.moe.schema import DOMAIN, OPS
from moe_export.ondisk import Spool

Array = npt.NDArray[Any]

Matrices = Mapping[str, Mapping[str, tuple[str, str, str]]]

# The matrices of each op that has experts, and the names of the inputs that store them.
EXPERTS: Matrices = {
    "Experts": {
        "up": ("up", "up_scales", "up_zeros"),
        "down": ("down", "down_scales", "down_zeros"),
    },
    "GroupedMatMul": {"weights": ("weights", "scales", "zeros")},
}
# The same of all other products.
DENSE: Matrices = {"Linear": {"weight": ("weight", "scales", "zeros")}}
_PARTS = ("values", "scales", "zeros")


def give_precision(
    graph: ir.Model,
    weights: Mapping[str, Weight],
    precision: Precision,
    spool: Spool,
    matrices: Matrices = EXPERTS,
    kept: Collection[str] = (),
) -> dict[str, Weight]:
    """The weights of the graph with those of some products in ``precision``; ``f32`` is no change.

    *Requires* that each matrix of those nodes is one of ``weights`` and that nothing else reads it.
    *Ensures* that the nodes say how their weights are stored and what their rows are rounded to,
    that scales and zeros are weights of their own (``<name>.scales``, ``<name>.zeros``) with the
    same sources, and that a matrix which several nodes read is stored once.  Weights that are
    ``kept`` keep their numbers.  A second run does nothing.
    """
    made = dict(weights)
    if precision == OWN_NUMBERS:
        return made
    stored: dict[str, tuple[ir.Value | None, ...]] = {}
    for node in _nodes(graph, matrices, kept):
        inputs = [given.name for given in OPS[node.op_type].inputs]
        present = list(node.inputs)
        node.resize_inputs(len(inputs))
        for matrix, parts in matrices[node.op_type].items():
            place = inputs.index(matrix)
            value = present[place] if place < len(present) else None
            if value is None:
                continue
            name = str(value.name)
            if name not in stored:
                _require_alone(value, matrices)
                promises = _promises(spool, name, made[name], precision)
                parts_of = dict(zip(_PARTS, promises, strict=True))
                stored[name] = tuple(_store(graph, value, parts_of, made))
            for part, tensor in zip(parts, stored[name], strict=True):
                node.replace_input_with(inputs.index(part), tensor)
        _trim(node)
        node.attributes.add(ir.AttrString("weight_format", precision.format))
        node.attributes.add(ir.AttrInt64("block_size", precision.block_size))
        node.attributes.add(ir.AttrString("row_format", precision.row_format))
    return made


def dense_weights(graph: ir.Model, kept: Collection[str]) -> tuple[str, ...]:
    """The weights that ``give_precision`` stores anew for ``DENSE``, by name."""
    place = [given.name for given in OPS["Linear"].inputs].index("weight")
    values = (node.inputs[place] for node in _nodes(graph, DENSE, kept))
    return tuple(dict.fromkeys(str(value.name) for value in values if value is not None))


def router_weights(model: MarkedModel) -> frozenset[str]:
    """The tensors of routers, by each of their names: a hair there moves a token."""
    routers = [m for layer in model.layers.values() for m in (layer.logits, layer.kept) if m]
    read = {id(tensor) for router in routers for tensor in router.parameters()}
    tensors = model.loaded.module.named_parameters(remove_duplicate=False)
    return frozenset(name for name, tensor in tensors if id(tensor) in read)


def _nodes(graph: ir.Model, matrices: Matrices, kept: Collection[str]) -> Iterator[ir.Node]:
    """Nodes whose weights are the model's own numbers still and need not stay so."""
    for node in graph.graph.all_nodes():
        if node.domain != DOMAIN or node.op_type not in matrices:
            continue
        given = node.attributes.get("weight_format")
        own = given is None or given.as_string() == "f32"
        if own and not any(value is not None and value.name in kept for value in node.inputs):
            yield node


def _require_alone(value: ir.Value, matrices: Matrices) -> None:
    """Refuse to quantise what is read as numbers somewhere."""
    for node, place in value.uses():
        ours = node.domain == DOMAIN and node.op_type in matrices
        if not ours or OPS[node.op_type].inputs[place].name not in matrices[node.op_type]:
            raise AssertionError(f"{value.name!r} is no product's where {node.name!r} has it")


def _store(
    graph: ir.Model, value: ir.Value, parts: Mapping[str, Weight | None], made: dict[str, Weight]
) -> Iterator[ir.Value | None]:
    """Put the parts of one weight into the graph and among its weights, the values in its place."""
    for part, weight in parts.items():
        if weight is None:
            yield None
            continue
        tensor = value if part == "values" else ir.Value(name=f"{value.name}.{part}")
        tensor.type = ir.TensorType(ir.DataType.from_numpy(weight.dtype))
        tensor.shape = ir.Shape(weight.shape)
        made[str(tensor.name)] = weight
        if part != "values":
            graph.graph.initializers.add(tensor)
        yield tensor


def _trim(node: ir.Node) -> None:
    """Absent inputs behind the last one present are not written down."""
    given = len(node.inputs)
    while given and node.inputs[given - 1] is None:
        given -= 1
    node.resize_inputs(given)


def _promises(
    spool: Spool, name: str, weight: Weight, precision: Precision
) -> Iterator[Weight | None]:
    """The weight's parts in the order of ``_PARTS``, unread; ``None`` for one it has not.

    The first that is read quantises the weight, if nobody has.
    """
    shapes = facts(weight.shape, precision)
    for part in _PARTS:
        if part not in shapes:
            yield None
            continue
        shape, dtype = shapes[part]
        rows = partial(_rows, spool, name, weight, precision, part, dtype)
        yield replace(
            weight,
            shape=shape,
            dtype=dtype,
            read=partial(rows, 0, shape[0]),
            rows=rows,
            pieces=None,
            origin=None if weight.origin is None else (weight.origin, precision, part),
        )


def _rows(
    spool: Spool,
    name: str,
    weight: Weight,
    precision: Precision,
    part: str,
    dtype: np.dtype[Any],
    start: int,
    stop: int,
) -> Array:
    stored = spool.quantized(name, LazyTensor(_OfWeight(weight)), precision)
    array = numpy_of(stored[part][start:stop])
    return array if array.dtype == dtype else array.astype(dtype)  # int4 comes as int8


@dataclass(frozen=True, eq=False)
class _OfWeight:
    """The reader of a weight's numbers."""

    weight: Weight

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def rows(self, start: int, stop: int) -> torch.Tensor:
        array = self.weight.part(start, stop)
        return torch.from_numpy(np.array(array, np.float32))
