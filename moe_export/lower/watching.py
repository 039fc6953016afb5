"""Graphs for validation over the same weights: one that shows its insides, one of experts alone."""

from __future__ import annotations

import onnx_ir as ir

from moe_export.forms import Component
from moe_export.moe.schema import DOMAIN

_ROUTED = ("x", "topk_ids", "topk_weights")


def probe_graph(component: Component) -> ir.Model:
    """The component's graph with every watched value as a further output."""
    model = component.graph.clone()
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    values |= {str(v.name): v for v in model.graph.inputs}
    outputs = {str(value.name) for value in model.graph.outputs}
    for roles in component.probes.values():
        for name in roles.values():
            if name not in outputs:
                model.graph.outputs.append(values[name])
                outputs.add(name)
    model.graph.name = "probe"
    return model


def expert_graph(component: Component) -> ir.Model:
    """Each layer's experts op with its routing as input.

    Inputs ``<layer>/x``, ``<layer>/topk_ids``, ``<layer>/topk_weights``; output
    ``<layer>/experts_y``.
    """
    whole = component.graph
    producers = {str(v.name): node for node in whole.graph for v in node.outputs}
    inputs: list[ir.Value] = []
    outputs: list[ir.Value] = []
    nodes: list[ir.Node] = []
    initializers: dict[str, ir.Value] = {}
    for layer, roles in component.probes.items():
        node = producers[roles["experts_y"]]
        given = [
            _input(layer, role, value) for role, value in zip(_ROUTED, node.inputs[:3], strict=True)
        ]
        rest = [_initializer(value, initializers) for value in node.inputs[3:]]
        copy = ir.Node(
            DOMAIN,
            node.op_type,
            [*given, *rest],
            node.attributes.values(),
            overload=node.overload,
            name=node.name,
            num_outputs=1,
        )
        made = copy.outputs[0]
        made.name, made.type = f"{layer}/experts_y", node.outputs[0].type
        made.shape = ir.Shape([f"{layer}/tokens", None])
        inputs += given
        outputs.append(made)
        nodes.append(copy)
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=nodes,
        initializers=list(initializers.values()),
        opset_imports=dict(whole.graph.opset_imports),
        name="experts",
    )
    functions = [f.clone() for key, f in whole.functions.items() if key[1] == "Experts"]
    return ir.Model(
        graph, ir_version=whole.ir_version, producer_name="moe-export", functions=functions
    )


def _input(layer: str, role: str, like: ir.Value | None) -> ir.Value:
    if like is None or like.shape is None:
        raise AssertionError(f"the experts op of {layer} has no {role} of known shape")
    return ir.Value(
        name=f"{layer}/{role}", type=like.type, shape=ir.Shape([f"{layer}/tokens", *like.shape[1:]])
    )


def _initializer(value: ir.Value | None, made: dict[str, ir.Value]) -> ir.Value | None:
    if value is None:
        return None
    name = str(value.name)
    if name not in made:
        made[name] = ir.Value(
            name=name, type=value.type, shape=value.shape, const_value=value.const_value
        )
    return made[name]
