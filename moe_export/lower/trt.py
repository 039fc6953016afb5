"""The targets ``trt`` and ``trt-rtx``: MoE layers are plugins, all else is TensorRT's own layers.

One graph has two readers.  TensorRT's parser makes a plugin of a node whose ``plugin_namespace`` is
that of a creator; ONNX Runtime runs the function that the graph carries for the same node, so that
the bundle is validated where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from moe_export.errors import UnsupportedError
from moe_export.forms import Component, Weight
from moe_export.lower.gpu_nodes import (
    GPU_OPS,
    give_gates_first,
    give_narrow_scales,
    given_inputs,
    gpu_nodes,
    require_kernel,
)
from moe_export.lower.native_attention import attend_natively
from moe_export.lower.standard import Lowered, give_functions
from moe_export.moe.schema import DOMAIN, OPS

PLUGIN_VERSION = "1"
_LARGEST_INT = 2**31 - 1


def lower_component(component: Component) -> Lowered:
    """*Requires* that the matrices of ``moe_export`` nodes are weights of the component.

    *Ensures* that each node of ``GPU_OPS`` says all its attributes and names the plugin's namespace
    and version, that its scales are bfloat16, and that no other ``moe_export`` node is left.
    Raises ``UnsupportedError`` for what the plugins cannot do.
    """
    graph = component.graph.clone()
    for node in gpu_nodes(graph):
        require_plugin(node, component.weights)
    weights = give_gates_first(graph, component.weights)
    weights = give_narrow_scales(graph, weights)
    functions = give_functions(graph)
    attend_natively(graph)
    InlinePass(criteria=lambda function: function.name not in GPU_OPS)(graph)
    for node in gpu_nodes(graph):
        name_plugin(node)
    kept = {key: words for key, words in functions.items() if key.partition(":")[0] in GPU_OPS}
    return Lowered(component=replace(component, graph=graph, weights=weights), functions=kept)


def engine_graph(graph: ir.Model) -> ir.Model:
    """The graph as TensorRT's parser reads it: no functions, and no inputs that are not there.

    ``input_names`` of a plugin's node says which of the op's inputs its own are.
    """
    copy = graph.clone()
    copy.functions.clear()
    for node in gpu_nodes(copy):
        given = given_inputs(node)
        node.attributes.add(ir.AttrString("input_names", ",".join(given)))
        node.overload = ""
        node.resize_inputs(0)
        node.resize_inputs(len(given))
        for place, value in enumerate(given.values()):
            node.replace_input_with(place, value)
    return copy


def plugin_names(graph: ir.Model) -> tuple[str, ...]:
    """The nodes that become plugins, in their order."""
    return tuple(str(node.name) for node in gpu_nodes(graph))


def name_plugin(node: ir.Node) -> None:
    """Say what TensorRT's parser asks of a plugin's node.

    All attributes are written down: the parser knows no defaults.
    """
    for attribute in OPS[node.op_type].attributes:
        if attribute.name not in node.attributes:
            node.attributes.add(ir.convenience.convert_attribute(attribute.name, attribute.default))
    node.attributes.add(ir.AttrString("plugin_namespace", DOMAIN))
    node.attributes.add(ir.AttrString("plugin_version", PLUGIN_VERSION))


def require_plugin(node: ir.Node, weights: Mapping[str, Weight]) -> None:
    """Refuse with ``UnsupportedError`` what the plugins cannot do, or TensorRT would spoil."""
    require_kernel(node, weights)
    where = str(node.name)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.INT and abs(attribute.as_int()) > _LARGEST_INT:
            raise UnsupportedError(
                f"{attribute.name} = {attribute.as_int()} has more bits than the 32 of TensorRT",
                where=where,
            )
    for name, value in given_inputs(node).items():
        weight = weights.get(str(value.name))
        if weight is not None and weight.dtype == np.uint8:
            raise UnsupportedError(
                "TensorRT would make 32 bits of each byte of a weight", where=f"{where}, {name}"
            )
