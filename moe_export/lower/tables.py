"""Rows of a table that a product has in panels, taken from there.

With tied embeddings the table ``[V, H]`` that tokens are looked up in is the head's matrix.  A
kernel reads that in panels, which hold the same float32 numbers in another order
(``docs/panels.md``), so a row is gathered number by number where it lies.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from moe_export.forms import Array, Component, Place, Weight
from moe_export.lower.ort import InPanels
from moe_export.moe import packing

_ROWS = packing.PANEL_ROWS


def read_in_panels(components: Mapping[str, Component]) -> dict[str, Component]:
    """The components with every table looked up in the panels that hold its numbers.

    *Requires* that weights of equal origins have equal bytes.  *Ensures* that such a table is no
    weight any more, that the graphs compute the same, to the bit, for the ids of its rows, 0 to
    V - 1, and that a run with another id fails.  Tables that something else than a ``Gather`` of
    rows by int64 reads are left alone, and so are those whose panels are rounded: they hold
    other numbers.  A second run does nothing.
    """
    panels: dict[Hashable, _Panels] = {}
    for name, component in sorted(components.items()):
        for key, weight in sorted(component.weights.items()):
            found = _panels(Place(component=name, weight=key), weight)
            if found is not None:
                panels.setdefault(found.origin.values, found)
    return {name: _looked_up(component, panels) for name, component in components.items()}


@dataclass(frozen=True)
class _Panels:
    """One float32 matrix in panels, ``[V/16 rounded up, H, 16]`` behind their header."""

    place: Place
    weight: Weight
    origin: InPanels

    def numbers(self) -> Weight:
        """All of them in one row, as they lie."""
        header = self.origin.header
        weight = self.weight

        def read() -> Array:
            return weight.read()[packing.HEADER_BYTES :].view("<f4")

        return Weight(
            shape=(header.panels * header.columns * _ROWS,),
            dtype=np.dtype(np.float32),
            sources=weight.sources,
            read=read,
        )


def _panels(place: Place, weight: Weight) -> _Panels | None:
    origin = weight.origin
    if not isinstance(origin, InPanels):
        return None
    header = origin.header
    plain = header.format == "f32" and header.experts == 1 and not header.gated
    beginning = replace(place, start=packing.HEADER_BYTES)
    return _Panels(beginning, weight, origin) if plain else None


def _looked_up(component: Component, panels: Mapping[Hashable, _Panels]) -> Component:
    tables = {
        name: panels[weight.origin]
        for name, weight in component.weights.items()
        if weight.origin in panels and _is_table(component.graph.graph.initializers[name])
    }
    if not tables:
        return component
    graph = component.graph.clone()
    weights, borrowed = dict(component.weights), dict(component.borrowed)
    for name, found in sorted(tables.items()):
        numbers = found.numbers()
        table = graph.graph.initializers[name]
        lookup = _Lookup(graph.graph, f"{name}.panels", numbers, found.origin.header)
        for user, _ in list(table.uses()):
            lookup.replace(user)
        del graph.graph.initializers[name], weights[name]
        weights[lookup.name], borrowed[lookup.name] = numbers, found.place
    return replace(component, graph=graph, weights=weights, borrowed=borrowed)


def _is_table(value: ir.Value) -> bool:
    """Whether rows of it are looked up by int64, and nothing else is done with it."""
    return bool(value.uses()) and all(
        user.op_type == "Gather"
        and not user.domain
        and place == 0
        and ("axis" not in user.attributes or user.attributes["axis"].as_int() == 0)
        and user.inputs[1] is not None
        and user.inputs[1].dtype == ir.DataType.INT64
        for user, place in value.uses()
    )


class _Lookup:
    """Rows of one table: column c of row r is number ``(r // 16 * H + c) * 16 + r % 16``."""

    def __init__(self, graph: ir.Graph, name: str, numbers: Weight, header: packing.Header) -> None:
        self.name = name
        self._graph = graph
        self._numbers = ir.Value(
            name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(numbers.shape)
        )
        graph.initializers.add(self._numbers)
        in_panel = header.columns * _ROWS
        self._constants = {
            what: self._constant(what, np.array(value, np.int64))
            for what, value in {
                "first": 0,
                "last": header.rows - 1,
                "rows": _ROWS,
                "in_panel": in_panel,
                "end": header.panels * in_panel,
                "behind": [-1],
                "columns": np.arange(header.columns) * _ROWS,
            }.items()
        }

    def replace(self, old: ir.Node) -> None:
        """Put the same rows for those of a ``Gather``, whose value keeps its name."""
        (made,) = old.outputs
        nodes, row = self._rows(old.inputs[1])
        row.type, row.shape, name = made.type, made.shape, str(made.name)
        for place, node in enumerate(nodes):
            node.name = node.outputs[0].name = f"{name}.{place}"
        self._graph.insert_before(old, nodes)
        ir.convenience.replace_all_uses_with(made, row, replace_graph_outputs=True)
        self._graph.remove(old, safe=True)
        row.name = name

    def _rows(self, ids: ir.Value | None) -> tuple[Sequence[ir.Node], ir.Value]:
        tape, given = ir.tape.Tape(), self._constants
        known = tape.op("Clip", [ids, given["first"], given["last"]])
        panel = tape.op("Mul", [tape.op("Div", [ids, given["rows"]]), given["in_panel"]])
        start = tape.op("Add", [panel, tape.op("Mod", [ids, given["rows"]])])
        # Zeros fill the last panel; an id that is no row's is sent behind the end, which fails.
        start = tape.op("Where", [tape.op("Equal", [ids, known]), start, given["end"]])
        begin = tape.op("Unsqueeze", [start, given["behind"]])
        number = tape.op("Add", [begin, given["columns"]])
        row = tape.op("Gather", [self._numbers, number])
        return tape.nodes, row

    def _constant(self, what: str, value: Array) -> ir.Value:
        tensor = ir.Tensor(value, name=f"{self.name}.{what}")
        made = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(value.shape),
            const_value=tensor,
        )
        self._graph.initializers.add(made)
        return made
