"""Give the experts of a portable graph a precision: stored weights, and what rows are rounded to.

A weight stays a promise: it is read, quantised and forgotten when the bundle is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moe_export.forms import OWN_NUMBERS, Weight
from moe_export.moe.quantize import Precision, quantize
from moe_export.moe.schema import DOMAIN, OPS

Array = npt.NDArray[Any]

# The matrices of each op that has experts, and the names of the inputs that store them.
_MATRICES = {
    "Experts": {
        "up": ("up", "up_scales", "up_zeros"),
        "down": ("down", "down_scales", "down_zeros"),
    },
    "GroupedMatMul": {"weights": ("weights", "scales", "zeros")},
}
_PARTS = ("values", "scales", "zeros")


def give_precision(
    graph: ir.Model, weights: Mapping[str, Weight], precision: Precision
) -> dict[str, Weight]:
    """The weights of the graph with those of its experts in ``precision``; ``f32`` changes nothing.

    *Requires* that each matrix of an ``Experts`` or ``GroupedMatMul`` node is one of ``weights``
    and that nothing else reads it.
    *Ensures* that the nodes say how their weights are stored and what their rows are rounded to,
    that scales and zeros are weights of their own (``<name>.scales``, ``<name>.zeros``) with the
    same sources, and that a matrix which several nodes read is stored once.  A second run does
    nothing.
    """
    made = dict(weights)
    if precision == OWN_NUMBERS:
        return made
    stored: dict[str, tuple[ir.Value | None, ...]] = {}
    last = _Last(precision)
    for node in _expert_nodes(graph):
        inputs = [given.name for given in OPS[node.op_type].inputs]
        present = list(node.inputs)
        node.resize_inputs(len(inputs))
        for matrix, parts in _MATRICES[node.op_type].items():
            place = inputs.index(matrix)
            value = present[place] if place < len(present) else None
            if value is None:
                continue
            name = str(value.name)
            if name not in stored:
                _require_alone(value)
                parts_of = dict(zip(_PARTS, last.promises(name, made[name]), strict=True))
                stored[name] = tuple(_store(graph, value, parts_of, made))
            for part, tensor in zip(parts, stored[name], strict=True):
                node.replace_input_with(inputs.index(part), tensor)
        _trim(node)
        node.attributes.add(ir.AttrString("weight_format", precision.format))
        node.attributes.add(ir.AttrInt64("block_size", precision.block_size))
        node.attributes.add(ir.AttrString("row_format", precision.row_format))
    return made


def _expert_nodes(graph: ir.Model) -> Iterator[ir.Node]:
    """Nodes with experts whose weights are the model's own numbers still."""
    for node in graph.graph.all_nodes():
        if node.domain == DOMAIN and node.op_type in _MATRICES:
            given = node.attributes.get("weight_format")
            if given is None or given.as_string() == "f32":
                yield node


def _require_alone(value: ir.Value) -> None:
    """Refuse to quantise what is read as numbers somewhere."""
    for node, place in value.uses():
        ours = node.domain == DOMAIN and node.op_type in _MATRICES
        if not ours or OPS[node.op_type].inputs[place].name not in _MATRICES[node.op_type]:
            raise AssertionError(f"{value.name!r} is no expert's matrix where {node.name!r} has it")


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


@dataclass
class _Last:
    """Quantises a weight once for its parts, which are read one after the other.

    It holds the parts of one weight that nobody has read yet, and nothing of any other.
    """

    precision: Precision
    name: str = ""

    def __post_init__(self) -> None:
        self._parts: dict[str, Array] = {}

    def promises(self, name: str, weight: Weight) -> Iterator[Weight | None]:
        """The weight's parts in the order of ``_PARTS``, unread; ``None`` for one it has not."""
        facts = _facts(weight.shape, self.precision)
        for part in _PARTS:
            if part not in facts:
                yield None
                continue
            shape, dtype = facts[part]
            read = partial(self._read, name, part, weight.read)
            yield replace(weight, shape=shape, dtype=dtype, read=read)

    def _read(self, name: str, part: str, read: Callable[[], Array]) -> Array:
        if name != self.name or part not in self._parts:
            made = quantize(np.asarray(read(), np.float32), self.precision)
            parts = {each: getattr(made, each) for each in _PARTS}
            self._parts = {each: array for each, array in parts.items() if array is not None}
            self.name = name
        return self._parts.pop(part)


def _facts(
    shape: tuple[int, ...], precision: Precision
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each part of a weight that is stored so."""
    # One row and one column tell the dtypes; the number of blocks follows from the columns.
    sample = quantize(np.zeros((1, 1), np.float32), precision)
    blocks = -(-shape[-1] // precision.block_size) if precision.block_size else 1
    shapes = {"values": shape, "scales": (*shape[:-1], blocks), "zeros": (*shape[:-1], blocks)}
    return {
        part: (shapes[part], getattr(sample, part).dtype)
        for part in _PARTS
        if getattr(sample, part) is not None
    }
