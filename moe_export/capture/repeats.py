"""Layers of one form are translated once: the others become copies of what came of the first.

A traced program holds the operators of each child of a ``ModuleList`` one after the other.  Where
those of several children are the same but for their inputs and the names of probes, ``fold`` leaves
the first in the program, between borders, and one operator for each other.  ``unfold`` copies what
lies between the borders in the translated graph to where the others stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import TensorArgument

from moe_export.moe.schema import DOMAIN

PROBE, BORDER, REPEAT = "Probe", "Border", "Repeat"


class CannotUnfoldError(Exception):
    """The translated graph has something between borders that is not copied."""


@dataclass(frozen=True)
class Repeat:
    """A layer that is a copy of another: its number, and its probes' names by the other's."""

    number: int
    original: int
    names: Mapping[str, str]


@dataclass(frozen=True)
class _Segment:
    """What one child computes."""

    nodes: list[fx.Node]
    inputs: list[fx.Node]
    """The tensors that it takes from outside, in order of their first use."""

    outputs: list[fx.Node]
    form: tuple[object, ...]
    """Equal for children that compute the same."""

    names: list[str]
    """Of the probes in it, which do not count for its form."""


def fold(program: torch.export.ExportedProgram, module: nn.Module) -> list[Repeat]:
    """Leave one of each form of layer in the program; says which layers are to be copied."""
    first: dict[tuple[object, ...], tuple[int, _Segment]] = {}
    repeats = []
    renamed: dict[str, str] = {}
    _VALUES.clear()
    for number, nodes in enumerate(_runs(program.graph, module)):
        segment = _segment(nodes)  # when those before have been put aside: it takes what they give
        if segment is None:
            continue
        original, like = first.setdefault(segment.form, (number, segment))
        if original != number:
            names = dict(zip(like.names, segment.names, strict=True))
            repeats.append(Repeat(number, original, names))
            renamed |= _put_aside(program.graph, segment, number)
    originals = {repeat.original for repeat in repeats}
    for number, segment in first.values():
        now = _segment(segment.nodes)
        if number in originals and now is not None:
            renamed |= _put_borders(program.graph, now, number)
    for spec in program.graph_signature.output_specs:
        if isinstance(spec.arg, TensorArgument) and spec.arg.name in renamed:
            spec.arg = TensorArgument(name=renamed[spec.arg.name])
    program.graph_module.recompile()
    return repeats


def _runs(graph: fx.Graph, module: nn.Module) -> list[list[fx.Node]]:
    """The operators of each child of a list that has no others between them."""
    lists = {name for name, child in module.named_modules() if isinstance(child, nn.ModuleList)}
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    runs: list[tuple[str | None, list[fx.Node]]] = []
    for node in nodes:
        path = _child_of_list(node, lists)
        if not runs or runs[-1][0] != path:
            runs.append((path, []))
        runs[-1][1].append(node)
    paths = [path for path, _ in runs]
    return [run for path, run in runs if path is not None and paths.count(path) == 1]


def _child_of_list(node: fx.Node, lists: set[str]) -> str | None:
    """The outermost child of a list that the node is of."""
    for path, _ in (node.meta.get("nn_module_stack") or {}).values():
        parent, _, name = path.rpartition(".")
        if parent in lists and name.isdigit():
            return str(path)
    return None


def _segment(nodes: list[fx.Node]) -> _Segment | None:
    """``None`` for nodes that are more than operators on tensors, sizes and constants."""
    places = {node: place for place, node in enumerate(nodes)}
    inputs: dict[fx.Node, int] = {}
    names: list[str] = []
    form: list[object] = []

    def word(given: Any) -> object:
        if isinstance(given, fx.Node):
            value = given.meta.get("val")
            if given in places:
                return "made", places[given]
            if not isinstance(value, Tensor):
                return "size", given.name if value is None else str(value)
            place = inputs.setdefault(given, len(inputs))
            return "taken", place, str(value.dtype), tuple(map(str, value.shape))
        if isinstance(given, list | tuple):
            return tuple(map(word, given))
        return "constant", repr(given)

    for node in nodes:
        kinds = {node.op} | {each.op for each in node.all_input_nodes}
        if not kinds <= {"call_function", "placeholder"}:
            return None
        args = node.args
        if node.target is torch.ops.moe_export.probe.default:
            args, name = args[:1], args[1]
            names.append(str(name))
        form.append((str(node.target), word(args), word(list(node.kwargs.items()))))
    outputs = [node for node in nodes if any(user not in places for user in node.users)]
    if not outputs or not all(isinstance(node.meta.get("val"), Tensor) for node in outputs):
        return None
    form.append(tuple(places[node] for node in outputs))
    return _Segment(nodes, list(inputs), outputs, tuple(form), names)


def _put_aside(graph: fx.Graph, segment: _Segment, number: int) -> dict[str, str]:
    """Replace a segment by one operator for each output; gives the new names of the outputs."""
    renamed = {}
    for place, output in enumerate(segment.outputs):
        value = output.meta["val"]
        _VALUES[number, place] = value
        with graph.inserting_before(segment.nodes[0]):
            made = graph.call_function(
                torch.ops.moe_export.repeat.default, (segment.inputs, number, place)
            )
        made.meta = {"val": value}
        output.replace_all_uses_with(made)
        renamed[output.name] = made.name
    for node in reversed(segment.nodes):
        graph.erase_node(node)
    return renamed


def _put_borders(graph: fx.Graph, segment: _Segment, number: int) -> dict[str, str]:
    """Mark where tensors enter and leave a segment; gives the new names of the outputs."""
    inside = set(segment.nodes)
    renamed = {}

    def border(x: fx.Node, role: str, place: int) -> fx.Node:
        made = graph.call_function(
            torch.ops.moe_export.border.default, (x, _label(number, role, place))
        )
        made.meta = {"val": x.meta["val"]}
        return made

    with graph.inserting_before(segment.nodes[0]):
        entries = [border(x, "in", place) for place, x in enumerate(segment.inputs)]
    for x, entry in zip(segment.inputs, entries, strict=True):
        x.replace_all_uses_with(entry, delete_user_cb=lambda user: user in inside)
    with graph.inserting_after(segment.nodes[-1]):
        exits = [border(x, "out", place) for place, x in enumerate(segment.outputs)]
    for x, exit in zip(segment.outputs, exits, strict=True):
        x.replace_all_uses_with(
            exit, delete_user_cb=lambda user: user not in inside and user not in exits
        )
        renamed[x.name] = exit.name
    return renamed


def _label(number: int, role: str, place: int) -> str:
    return f"{number}/{role}/{place}"


def unfold(model: ir.Model, repeats: Sequence[Repeat]) -> None:
    """Put copies of the originals where the repeats stand, and take the borders away.

    Raises ``CannotUnfoldError`` where an original holds a graph in a node.
    """
    graph = model.graph
    originals = {number: _Original() for number in {repeat.original for repeat in repeats}}
    stands: dict[int, dict[int, ir.Node]] = {}
    for node in graph:
        if (node.domain, node.op_type) == (DOMAIN, BORDER):
            original, role, which = node.attributes["name"].as_string().split("/")
            originals[int(original)].borders.setdefault(role, {})[int(which)] = node
        if (node.domain, node.op_type) == (DOMAIN, REPEAT):
            number, place = (node.attributes[name].as_int() for name in ("number", "place"))
            stands.setdefault(number, {})[place] = node
    for each in originals.values():
        each.nodes = _between(graph, each.borders)
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
    made: dict[ir.Value, ir.Value] = {
        node.outputs[0]: _given(first, place) for place, node in original.borders["in"].items()
    }
    for node in original.nodes:
        graph.insert_before(first, _copied(node, repeat, made))
    for place, stand in stands.items():
        left = _given(original.borders["out"][place], 0)
        _replace(graph, stand, made.get(left, left))


def _copied(node: ir.Node, repeat: Repeat, made: dict[ir.Value, ir.Value]) -> ir.Node:
    """A node on what was made of its inputs, with the names of the repeat in it."""
    outputs = [
        ir.Value(name=f"{value.name}_in_{repeat.number}", type=value.type, shape=value.shape)
        for value in node.outputs
    ]
    made.update(zip(node.outputs, outputs, strict=True))
    return ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else made.get(value, value) for value in node.inputs],
        [
            _renamed(attribute, repeat.names) if node.op_type == PROBE else attribute
            for attribute in node.attributes.values()
        ],
        overload=node.overload,
        outputs=outputs,
        name=f"{node.name}_in_{repeat.number}",
        version=node.version,
    )


def _renamed(attribute: ir.Attr, names: Mapping[str, str]) -> ir.Attr:
    return ir.AttrString(attribute.name, names[attribute.as_string()])


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


# --- The operators of a folded program ----------------------------------------------------------

# What a repeat gives, by its number and place, of the program that is being translated.
_VALUES: dict[tuple[int, int], Tensor] = {}


@torch.library.custom_op(f"{DOMAIN}::border", mutates_args=())
def _border(x: Tensor, name: str) -> Tensor:
    """A copy of ``x``; marks where a layer begins or ends."""
    return x.clone()


@_border.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(f"{DOMAIN}::repeat", mutates_args=())
def _repeat(xs: Sequence[Tensor], number: int, place: int) -> Tensor:
    """What a layer gives at one place; it stands in a program that is never run."""
    raise AssertionError("a folded program is not run")


@_repeat.register_fake
def _(xs: Sequence[Tensor], number: int, place: int) -> Tensor:
    value = _VALUES[number, place]
    return xs[0].new_empty(value.shape, dtype=value.dtype)
