"""Copies, in a translated graph, of what lies between borders, to where repeats stand."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from moe_export.capture.repeats import BORDER, PROBE, REPEAT, Repeat
from moe_export.moe.schema import DOMAIN

# A name in a size such as "past + sequence".
_SYMBOL = re.compile(r"[A-Za-z_]\w*")


class CannotUnfoldError(Exception):
    """The translated graph has something between borders that is not copied."""


def unfold(model: ir.Model, repeats: Sequence[Repeat]) -> None:
    """Put copies of the originals where the repeats stand, and take the borders away.

    Raises ``CannotUnfoldError`` where an original holds a graph in a node.
    """
    graph = model.graph
    originals: defaultdict[int, _Original] = defaultdict(_Original)
    stands: dict[int, dict[int, ir.Node]] = {}
    for node in graph:
        if (node.domain, node.op_type) == (DOMAIN, BORDER):
            original, role, which = node.attributes["name"].as_string().split("/")
            originals[int(original)].borders.setdefault(role, {})[int(which)] = node
        if (node.domain, node.op_type) == (DOMAIN, REPEAT):
            number, place = (node.attributes[name].as_int() for name in ("number", "place"))
            stands.setdefault(number, {})[place] = node
    for number in {repeat.original for repeat in repeats}:
        originals[number].nodes = _between(graph, originals[number].borders)
    for repeat in repeats:
        if repeat.number in stands:
            _copy(graph, originals[repeat.original], repeat, stands[repeat.number])
    for each in originals.values():
        for borders in each.borders.values():
            for node in borders.values():
                _replace(graph, node, _given(node, 0))


@dataclass
class _Original:
    """What stands between borders of a translated graph."""

    borders: dict[str, dict[int, ir.Node]] = field(default_factory=dict)
    nodes: list[ir.Node] = field(default_factory=list)


def _between(graph: ir.Graph, borders: Mapping[str, Mapping[int, ir.Node]]) -> list[ir.Node]:
    """What is computed of what enters, as far as where it leaves.  All else is not the layer's."""
    ends = set(borders["out"].values())
    inside: set[ir.Node] = set()
    reached = [node.outputs[0] for node in borders.get("in", {}).values()]
    while reached:
        for user, _ in reached.pop().uses():
            if user not in inside and user not in ends:
                inside.add(user)
                reached.extend(user.outputs)
    nodes = [node for node in graph if node in inside]
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if len(nodes) != len(inside) or any(
        attribute.type in kinds for node in nodes for attribute in node.attributes.values()
    ):
        raise CannotUnfoldError
    return nodes


def _copy(
    graph: ir.Graph, original: _Original, repeat: Repeat, stands: Mapping[int, ir.Node]
) -> None:
    first = min(stands.values(), key=list(graph).index)
    sizes = (str(dim) for given in graph.inputs for dim in given.shape or () if _is_named(dim))
    known = {name for size in sizes for name in _SYMBOL.findall(size)}
    made: dict[ir.Value, ir.Value] = {
        node.outputs[0]: _given(first, place) for place, node in original.borders["in"].items()
    }
    for node in original.nodes:
        graph.insert_before(first, _copied(node, repeat, made, known))
    for place, stand in stands.items():
        left = _given(original.borders["out"][place], 0)
        _replace(graph, stand, made.get(left, left))


def _copied(
    node: ir.Node, repeat: Repeat, made: dict[ir.Value, ir.Value], known: set[str]
) -> ir.Node:
    """A node on what was made of its inputs, with the names of the repeat in it."""
    outputs = [
        ir.Value(
            name=f"{value.name}_in_{repeat.number}",
            type=value.type,
            shape=_shape_of_copy(value.shape, known),
        )
        for value in node.outputs
    ]
    made.update(zip(node.outputs, outputs, strict=True))
    return ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else made.get(value, value) for value in node.inputs],
        [
            _renamed(attribute, repeat) if node.op_type == PROBE else attribute
            for attribute in node.attributes.values()
        ],
        overload=node.overload,
        outputs=outputs,
        name=f"{node.name}_in_{repeat.number}",
        version=node.version,
    )


def _shape_of_copy(shape: ir.Shape | None, known: set[str]) -> ir.Shape | None:
    """The same but for sizes that a layer finds in its numbers: each finds its own.

    ONNX Runtime lets values of one size, by its name, lie in one place.
    """
    if shape is None:
        return None
    return ir.Shape(
        None if _is_named(dim) and not set(_SYMBOL.findall(str(dim))) <= known else dim
        for dim in shape
    )


def _is_named(dim: object) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is not None


def _renamed(attribute: ir.Attr, repeat: Repeat) -> ir.Attr:
    return ir.AttrString(attribute.name, repeat.renamed(attribute.as_string()))


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let ``value`` stand for the one output of a node, which goes."""
    (output,) = node.outputs
    if output.is_graph_output():
        if value.is_graph_output() or value.is_graph_input() or value.is_initializer():
            node.domain, node.op_type = "", "Identity"
            node.attributes.clear()
            node.resize_inputs(1)
            node.replace_input_with(0, value)
            return
        value.name, value.type, value.shape = output.name, output.type, output.shape
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _given(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    if value is None:
        raise AssertionError(f"{node.name!r} was given nothing at {place}")
    return value
