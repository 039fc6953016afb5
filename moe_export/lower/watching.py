"""Graphs for validation over the same weights: one that shows its insides, one of experts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from moe_export.forms import Component

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
    """Each layer's experts alone, with the routing as input.

    Inputs ``<layer>/x``, ``<layer>/topk_ids``, ``<layer>/topk_weights``; output
    ``<layer>/experts_y``.
    """
    whole = component.graph
    values = {str(v.name): v for node in whole.graph for v in node.outputs}
    values |= {str(v.name): v for v in whole.graph.inputs}
    initializers: dict[str, ir.Value] = {}
    layers = [_Layer(layer, roles, values, initializers) for layer, roles in _routed(component)]
    graph = ir.Graph(
        [value for layer in layers for value in layer.inputs],
        [layer.output for layer in layers],
        nodes=[node for layer in layers for node in layer.nodes],
        initializers=list(initializers.values()),
        opset_imports=dict(whole.graph.opset_imports),
        name="experts",
    )
    functions = [f.clone() for key, f in whole.functions.items() if key[1] != "Router"]
    return ir.Model(
        graph, ir_version=whole.ir_version, producer_name="moe-export", functions=functions
    )


def _routed(component: Component) -> Iterator[tuple[str, Mapping[str, str]]]:
    for layer, roles in component.probes.items():
        yield layer, {role: roles[role] for role in (*_ROUTED, "experts_y")}


class _Layer:
    """A copy of what lies between a layer's routing and its experts' sum."""

    def __init__(
        self,
        layer: str,
        roles: Mapping[str, str],
        values: Mapping[str, ir.Value],
        initializers: dict[str, ir.Value],
    ) -> None:
        self.layer = layer
        self.initializers = initializers
        self.nodes: list[ir.Node] = []
        self._copies: dict[ir.Value, ir.Value] = {}
        self.inputs = [self._input(role, values[roles[role]]) for role in _ROUTED]
        self.output = self._copied(values[roles["experts_y"]])
        self.output.name = f"{layer}/experts_y"
        self.output.shape = ir.Shape([f"{layer}/tokens", None])

    def _input(self, role: str, value: ir.Value) -> ir.Value:
        if value.shape is None:
            raise AssertionError(f"{role} of {self.layer} has no known shape")
        shape = ir.Shape([f"{self.layer}/tokens", *value.shape[1:]])
        made = ir.Value(name=f"{self.layer}/{role}", type=value.type, shape=shape)
        self._copies[value] = made
        return made

    def _copied(self, value: ir.Value) -> ir.Value:
        if value in self._copies:
            return self._copies[value]
        node = value.producer()
        if node is None:
            return self._initializer(value)
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if given is None else self._copied(given) for given in node.inputs],
            node.attributes.values(),
            overload=node.overload,
            name=node.name,
            num_outputs=len(node.outputs),
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type = f"{self.layer}/{old.name}", old.type
            self._copies[old] = new
        self.nodes.append(copy)
        return self._copies[value]

    def _initializer(self, value: ir.Value) -> ir.Value:
        """Weights and constants are shared between the layers, under their own names."""
        name = str(value.name)
        if name not in self.initializers:
            self.initializers[name] = ir.Value(
                name=name, type=value.type, shape=value.shape, const_value=value.const_value
            )
        return self.initializers[name]
