"""The ``standard`` target: every op is a model-local function in standard ONNX.

Any ONNX runtime that inlines functions runs it; where a kernel is registered for an op, the
kernel wins over the function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from moe_export.forms import Component
from moe_export.lower.functions import function_for
from moe_export.moe.schema import DOMAIN, OPS


@dataclass(frozen=True)
class Lowered:
    """One component in a target's ops."""

    component: Component
    functions: dict[str, str]
    """By op and overload, what each was made for."""


def lower_component(component: Component) -> Lowered:
    """*Ensures* that every ``moe_export`` node names the function that the graph carries for it."""
    graph = component.graph.clone()
    functions = give_functions(graph)
    return Lowered(component=replace(component, graph=graph), functions=functions)


def give_functions(graph: ir.Model) -> dict[str, str]:
    """Add the function of every op node to the graph; by op and overload, what each was made for.

    A node keeps its op type and its attributes; its ``overload`` picks the body.
    """
    made: dict[str, str] = {}
    opset = graph.graph.opset_imports[""]
    for node in graph.graph.all_nodes():
        if node.domain != DOMAIN:
            continue
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        present = tuple(
            schema.name
            for schema, value in zip(OPS[node.op_type].inputs, node.inputs, strict=False)
            if value is not None
        )
        function = function_for(node.op_type, attributes, present, opset_version=opset)
        node.overload = function.overload
        graph.functions[function.identifier()] = function
        made[f"{node.op_type}:{function.overload}"] = ", ".join(
            f"{name}={value}" for name, value in attributes.items()
        )
    return made
