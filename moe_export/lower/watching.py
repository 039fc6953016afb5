"""Graphs for validation over the same weights: insides shown, a routing replayed, experts alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from moe_export.forms import Component

_ROUTING = ("topk_ids", "topk_weights")
_ROUTED = ("x", *_ROUTING)


def probe_graph(component: Component) -> ir.Model:
    """The component's graph with every watched value as a further output."""
    model = component.graph.clone()
    _show(model.graph, [name for roles in component.probes.values() for name in roles.values()])
    model.graph.name = "probe"
    return model


def _show(graph: ir.Graph, names: Iterable[str]) -> None:
    """Make outputs of those values that are none."""
    values = _values(graph)
    outputs = {str(value.name) for value in graph.outputs}
    for name in names:
        if name not in outputs:
            graph.outputs.append(values[name])
            outputs.add(name)


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    values = {str(v.name): v for node in graph for v in node.outputs}
    return values | {str(v.name): v for v in graph.inputs}


def replay_graph(component: Component) -> ir.Model:
    """The probe graph, told whom to choose.

    Inputs ``replay/<layer>/topk_ids`` and ``replay/<layer>/topk_weights`` stand wherever a router's
    outputs stood, outputs of the model included; what the router itself chooses is given as
    ``routed/<layer>/topk_ids`` and ``routed/<layer>/topk_weights``.  So each router decides about
    the numbers that follow from the choice before it, and no decision reaches another.
    """
    model = component.graph.clone()
    values = _values(model.graph)
    for layer, roles in component.probes.items():
        for role in _ROUTING:
            _replay(model.graph, _made(values[roles[role]]), layer, role)
    shown = [
        n for roles in component.probes.values() for r, n in roles.items() if r not in _ROUTING
    ]
    _show(model.graph, shown)
    model.graph.name = "replay"
    return model


def _made(value: ir.Value) -> ir.Value:
    """The value itself, where this is a copy of it under another name."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _replay(graph: ir.Graph, own: ir.Value, layer: str, role: str) -> None:
    """Put an input in the place of a router's output, and show that output under its own name."""
    if own.shape is None:
        raise AssertionError(f"{role} of {layer} has no known shape")
    shape = ir.Shape([f"{layer}/tokens", *own.shape[1:]])
    given = ir.Value(name=f"replay/{layer}/{role}", type=own.type, shape=shape)
    graph.inputs.append(given)
    ir.convenience.replace_all_uses_with(own, given)
    if own.is_graph_output():
        shown = ir.Node("", "Identity", [given], num_outputs=1, name=f"replay/{layer}/{role}")
        shown.outputs[0].type, shown.outputs[0].shape = own.type, own.shape
        shown.outputs[0].name, own.name = own.name, None
        graph.outputs[graph.outputs.index(own)] = shown.outputs[0]
        graph.append(shown)
    own.name = f"routed/{layer}/{role}"
    graph.outputs.append(own)


def expert_graph(component: Component) -> ir.Model:
    """Each layer's experts alone, with the routing as input.

    Inputs ``<layer>/x``, ``<layer>/topk_ids``, ``<layer>/topk_weights``; output
    ``<layer>/experts_y``.
    """
    whole = component.graph
    values = _values(whole.graph)
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
