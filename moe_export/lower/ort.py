"""The ``ort`` target: ONNX Runtime with this project's kernels, the experts' weights in panels.

The graph carries no function for a ``moe_export`` node: the library has a kernel for each.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from moe_export.forms import Array, Component, KernelNeeds, Weight
from moe_export.lower.heads import use_rotary_heads
from moe_export.lower.joined import join_products
from moe_export.lower.standard import Lowered
from moe_export.moe import packing
from moe_export.moe.layer import WeightFormat
from moe_export.moe.schema import DOMAIN, OPS
from moe_export.runtime import kernels

NEEDS = KernelNeeds(abi=kernels.ABI, panels=packing.VERSION)

# The matrices of each op by the input that has them, with the inputs of their scales and zeros.
_MATRICES = {
    "Experts": {"up": ("up_scales", "up_zeros"), "down": ("down_scales", "down_zeros")},
    "GroupedMatMul": {"weights": ("scales", "zeros")},
    "Linear": {"weight": ("scales", "zeros")},
}
_FORMATS: Mapping[str, WeightFormat] = {
    "float32": "f32",
    "bfloat16": "bf16",
    "float16": "f16",
    "int8": "int8",
    "int4": "int4",
}


def lower_component(component: Component) -> Lowered:
    """*Requires* that the matrices of ``moe_export`` nodes are weights of the component.

    *Ensures* that heads are normed and turned by one node, and products of the same rows one; that
    each matrix is one weight in panels (``docs/panels.md``), packed when it is read; that scales
    and zeros are inside it and no weights any more; that every other weight is as it was; and that
    ``in_place`` names the caches that grow.
    """
    graph = component.graph.clone()
    watched = {name for roles in component.probes.values() for name in roles.values()}
    use_rotary_heads(graph, watched)
    weights = give_panels(graph, join_products(graph, component.weights, watched))
    lowered = replace(component, graph=graph, weights=weights, in_place=growing_caches(graph))
    return Lowered(component=lowered, functions={})


def give_panels(graph: ir.Model, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The weights of the graph with the matrices of ``moe_export`` nodes in panels.

    A second run does nothing.
    """
    made = dict(weights)
    packed: dict[str, _Matrix] = {}
    for node in _nodes_in_rows(graph):
        inputs = [given.name for given in OPS[node.op_type].inputs]
        node.resize_inputs(len(inputs))
        values = dict(zip(inputs, node.inputs, strict=True))
        formats = set()
        for name, stored in _MATRICES[node.op_type].items():
            value = values[name]
            if value is None:
                continue
            matrix = _matrix(node, name, value, [values[part] for part in stored])
            if packed.setdefault(str(value.name), matrix) != matrix:
                raise AssertionError(f"{value.name!r} is stored in one way and read in two")
            formats.add(_FORMATS[weights[matrix.values].dtype.name])
            made[matrix.values] = matrix.weight(weights)
            for part in stored:
                node.replace_input_with(inputs.index(part), None)
        _trim(node)
        (weight_format,) = formats
        node.attributes.add(ir.AttrString("weight_format", weight_format))
        node.attributes.add(ir.AttrString("weight_layout", "panels"))
    for matrix in packed.values():
        _replace_initializers(graph, matrix, made)
    return made


def growing_caches(graph: ir.Model) -> dict[str, str]:
    """Outputs that a kernel only adds to where the input that they begin with lies there too.

    What else reads such an input finds it as it was: nothing is written but behind it.
    """
    found: dict[str, str] = {}
    for node in graph.graph.all_nodes():
        if node.domain != DOMAIN or node.op_type != "CachedAttention":
            continue
        names = [given.name for given in OPS[node.op_type].inputs]
        for kind, made in zip(("key", "value"), node.outputs[1:], strict=True):
            past = node.inputs[names.index(f"past_{kind}")]
            taken = past is None or past.name in found.values()
            if past is not None and not taken and past.is_graph_input() and made.is_graph_output():
                found[str(made.name)] = str(past.name)
    return found


@dataclass(frozen=True)
class InPanels:
    """The origin of a weight in panels."""

    values: Hashable
    """The origin of the numbers in rows."""

    stored: tuple[Hashable, ...]
    """Those of scales and zeros, as far as there are any."""

    header: packing.Header
    interleaved: bool


@dataclass(frozen=True)
class _Matrix:
    """A matrix of a node: its tensors by name, and what its rows are."""

    values: str
    scales: str | None
    zeros: str | None
    block_size: int
    gated: bool
    interleaved: bool

    def weight(self, weights: Mapping[str, Weight]) -> Weight:
        """The same in panels; every part is read when it is."""
        parts = [None if n is None else weights[n] for n in (self.values, self.scales, self.zeros)]
        values, *others = parts
        if values is None:
            raise AssertionError("a matrix has values")
        is_one = len(values.shape) == 2
        experts, rows, columns = (1, *values.shape) if is_one else values.shape
        name = _FORMATS[values.dtype.name]
        header = packing.Header(
            format=name,
            experts=experts,
            rows=rows,
            columns=columns,
            block_size=self.block_size,
            gated=self.gated,
            zeros=self.zeros is not None,
            wide_scales=self.scales is not None and not self.block_size,
        )

        def entry(part: Weight | None, number: int) -> Array | None:
            if part is None:
                return None
            return part.read() if is_one else part.part(number, number + 1)[0]

        def expert(number: int) -> tuple[Array, Array | None, Array | None]:
            made, scales, zeros = (entry(part, number) for part in (values, *others))
            if made is None:
                raise AssertionError("a matrix has values")
            return made, scales, zeros

        def pieces() -> Iterator[Array]:
            return packing.pack_in_pieces(header, expert, interleaved=self.interleaved)

        return replace(
            values,
            shape=(header.total_bytes,),
            dtype=np.dtype(np.uint8),
            read=lambda: np.concatenate([piece.copy() for piece in pieces()]),
            rows=None,
            pieces=pieces,
            origin=self._origin(header, values, others),
        )

    def _origin(
        self, header: packing.Header, values: Weight, others: list[Weight | None]
    ) -> InPanels | None:
        stored = tuple(part.origin for part in others if part is not None)
        if values.origin is None or None in stored:
            return None
        return InPanels(values.origin, stored, header, self.interleaved)


def _nodes_in_rows(graph: ir.Model) -> Iterator[ir.Node]:
    for node in graph.graph.all_nodes():
        ours = node.domain == DOMAIN and node.op_type in _MATRICES
        if ours and _attribute(node, "weight_layout") == "rows":
            yield node


def _matrix(node: ir.Node, name: str, value: ir.Value, stored: list[ir.Value | None]) -> _Matrix:
    scales, zeros = (None if part is None else str(part.name) for part in stored)
    gated = name == "up" and bool(_attribute(node, "gated"))
    return _Matrix(
        values=str(value.name),
        scales=scales,
        zeros=zeros,
        block_size=int(_attribute(node, "block_size")),
        gated=gated,
        interleaved=gated and _attribute(node, "gate_layout") == "interleaved",
    )


def _attribute(node: ir.Node, name: str) -> int | float | str:
    """An attribute of the node, or its default."""
    given = node.attributes.get(name)
    if given is not None:
        value: int | float | str = given.value
        return value
    default = next(a.default for a in OPS[node.op_type].attributes if a.name == name)
    if default is None:
        raise AssertionError(f"{node.name!r} has no {name!r}")
    return default


def _replace_initializers(graph: ir.Model, matrix: _Matrix, made: dict[str, Weight]) -> None:
    """The values become the panels, scales and zeros leave graph and weights."""
    value = graph.graph.initializers[matrix.values]
    value.type = ir.TensorType(ir.DataType.UINT8)
    value.shape = ir.Shape(made[matrix.values].shape)
    for name in (matrix.scales, matrix.zeros):
        if name is not None:
            del graph.graph.initializers[name]
            del made[name]


def _trim(node: ir.Node) -> None:
    """Absent inputs behind the last one present are not written down."""
    given = len(node.inputs)
    while given and node.inputs[given - 1] is None:
        given -= 1
    node.resize_inputs(given)
