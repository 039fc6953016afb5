"""The targets ``trt`` and ``trt-rtx``: MoE layers are plugins, all else is TensorRT's own layers.

One graph has two readers.  TensorRT's parser makes a plugin of a node whose ``plugin_namespace`` is
that of a creator; ONNX Runtime runs the function that the graph carries for the same node, so that
the bundle is validated where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from moe_export.errors import UnsupportedError
from moe_export.forms import Array, Component, Weight
from moe_export.lower.standard import Lowered, give_functions
from moe_export.moe.schema import DOMAIN, OPS

PLUGINS = frozenset(("Router", "Experts", "Dispatch", "GroupedMatMul", "Combine"))
"""The ops that are plugins; the others become standard operators."""

PLUGIN_VERSION = "1"
_SCALES = ("up_scales", "down_scales", "scales")
_ZEROS = ("up_zeros", "down_zeros", "zeros")
# What GPU kernels multiply: a weight format with what rows are rounded to before they meet it.
_PRODUCTS = {
    "f32": ("f32",),
    "f16": ("f32",),
    "bf16": ("f32", "bf16"),
    "int8": ("bf16",),
    "int4": ("bf16",),
}
_MOST_EXPERTS = 2048
_LARGEST_INT = 2**31 - 1


def lower_component(component: Component) -> Lowered:
    """*Requires* that the matrices of ``moe_export`` nodes are weights of the component.

    *Ensures* that each node of ``PLUGINS`` says all its attributes and names the plugin's namespace
    and version, that its scales are bfloat16, and that no other ``moe_export`` node is left.
    Raises ``UnsupportedError`` for what the plugins cannot do.
    """
    graph = component.graph.clone()
    for node in plugin_nodes(graph):
        require_plugin(node, component.weights)
    weights = give_gates_first(graph, component.weights)
    weights = give_narrow_scales(graph, weights)
    functions = give_functions(graph)
    InlinePass(criteria=lambda function: function.name not in PLUGINS)(graph)
    for node in plugin_nodes(graph):
        name_plugin(node)
    kept = {key: words for key, words in functions.items() if key.partition(":")[0] in PLUGINS}
    return Lowered(component=replace(component, graph=graph, weights=weights), functions=kept)


def plugin_nodes(graph: ir.Model) -> Iterator[ir.Node]:
    """The nodes that become plugins."""
    for node in graph.graph.all_nodes():
        if node.domain == DOMAIN and node.op_type in PLUGINS:
            yield node


def engine_graph(graph: ir.Model) -> ir.Model:
    """The graph as TensorRT's parser reads it: no functions, and no inputs that are not there.

    ``input_names`` of a plugin's node says which of the op's inputs its own are.
    """
    copy = graph.clone()
    copy.functions.clear()
    for node in plugin_nodes(copy):
        given = _inputs(node)
        node.attributes.add(ir.AttrString("input_names", ",".join(given)))
        node.overload = ""
        node.resize_inputs(0)
        node.resize_inputs(len(given))
        for place, value in enumerate(given.values()):
            node.replace_input_with(place, value)
    return copy


def plugin_names(graph: ir.Model) -> tuple[str, ...]:
    """The nodes that become plugins, in their order."""
    return tuple(str(node.name) for node in plugin_nodes(graph))


def name_plugin(node: ir.Node) -> None:
    """Say what TensorRT's parser asks of a plugin's node.

    All attributes are written down: the parser knows no defaults.
    """
    for attribute in OPS[node.op_type].attributes:
        if attribute.name not in node.attributes:
            node.attributes.add(ir.convenience.convert_attribute(attribute.name, attribute.default))
    node.attributes.add(ir.AttrString("plugin_namespace", DOMAIN))
    node.attributes.add(ir.AttrString("plugin_version", PLUGIN_VERSION))


def give_narrow_scales(graph: ir.Model, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The weights, with the scales of plugins' nodes as bfloat16, each the same number.

    A second run does nothing.
    """
    made = dict(weights)
    for node in plugin_nodes(graph):
        for name, value in _inputs(node).items():
            if name not in _SCALES or made[str(value.name)].dtype != np.float32:
                continue
            made[str(value.name)] = _narrowed(made[str(value.name)], str(node.name))
            value.type = ir.TensorType(ir.DataType.BFLOAT16)
    return made


def give_gates_first(graph: ir.Model, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The weights, with gates and values that lie in turn put one behind the other.

    A second run does nothing.
    """
    made = dict(weights)
    turned: dict[str, bool] = {}
    for node in plugin_nodes(graph):
        layout = node.attributes.get("gate_layout")
        in_turn = layout is not None and layout.as_string() == "interleaved"
        for name, value in _inputs(node).items():
            if not name.startswith("up"):
                continue
            key = str(value.name)
            if turned.setdefault(key, in_turn) != in_turn:
                raise AssertionError(f"{key!r} has its gates in two places")
            if in_turn and made[key] is weights[key]:
                made[key] = _changed(weights[key], _gates_first)
        if in_turn:
            node.attributes.add(ir.AttrString("gate_layout", "concatenated"))
    return made


def _gates_first(rows: Array) -> Array:
    """``[E, 2I, ..]`` with gates in the even rows as gates and then values."""
    return np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1)


def _narrowed(scales: Weight, where: str) -> Weight:
    def narrow(numbers: Array) -> Array:
        narrowed = numbers.astype(ml_dtypes.bfloat16)
        if not np.array_equal(narrowed.astype(np.float32), numbers, equal_nan=True):
            raise UnsupportedError(
                "a weight has scales that bfloat16 does not hold, which is what the plugins take",
                where=where,
                hint="let moe-export quantise the weights: its scales are such numbers",
            )
        return narrowed

    return replace(_changed(scales, narrow), dtype=np.dtype(ml_dtypes.bfloat16))


def _changed(weight: Weight, change: Callable[[Array], Array]) -> Weight:
    """A weight of the same shape, made of this one by experts where it is read so."""
    rows = weight.rows
    return replace(
        weight,
        read=lambda: change(weight.read()),
        rows=None if rows is None else lambda start, stop: change(rows(start, stop)),
        pieces=None,
        origin=None,
    )


def _inputs(node: ir.Node) -> dict[str, ir.Value]:
    """What the node has, by the names of the op's schema."""
    pairs = zip(OPS[node.op_type].inputs, node.inputs, strict=False)
    return {given.name: value for given, value in pairs if value is not None}


def require_plugin(node: ir.Node, weights: Mapping[str, Weight]) -> None:
    """Refuse with ``UnsupportedError`` what the plugins cannot do, or TensorRT would spoil."""
    where, given = str(node.name), _inputs(node)
    stored, rows = (_word(node, name, "f32") for name in ("weight_format", "row_format"))
    if rows not in _PRODUCTS[stored]:
        goes = " or ".join(f"{stored}@{each}" for each in _PRODUCTS[stored])
        raise UnsupportedError(
            f"the plugins do not multiply {stored} weights with rows of {rows}",
            where=where,
            hint=f"--precision {goes}",
        )
    logits = given.get("router_logits")
    experts = None if logits is None or logits.shape is None else logits.shape[-1]
    if isinstance(experts, int) and experts > _MOST_EXPERTS:
        raise UnsupportedError(
            f"the router's plugin chooses among {_MOST_EXPERTS} experts at most, not {experts}",
            where=where,
        )
    if any(name in _ZEROS for name in given):
        raise UnsupportedError(
            "the plugins take no weights with zero points",
            where=where,
            hint="--precision without +zeros",
        )
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.INT and abs(attribute.as_int()) > _LARGEST_INT:
            raise UnsupportedError(
                f"{attribute.name} = {attribute.as_int()} has more bits than the 32 of TensorRT",
                where=where,
            )
    for name, value in given.items():
        weight = weights.get(str(value.name))
        if weight is not None:
            _require_weight(weight, f"{where}, {name}")


def _word(node: ir.Node, name: str, default: str) -> str:
    given = node.attributes.get(name)
    return default if given is None else given.as_string()


def _require_weight(weight: Weight, where: str) -> None:
    if weight.dtype == np.uint8:
        raise UnsupportedError("TensorRT would make 32 bits of each byte of a weight", where=where)
    if weight.dtype.name == "int4" and weight.shape[-1] % 2:
        raise UnsupportedError(
            f"rows of {weight.shape[-1]} int4 end within a byte, which the plugins do not read",
            where=where,
            hint="--precision int8@bf16",
        )
