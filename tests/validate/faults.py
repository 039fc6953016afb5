"""What can go wrong on the way from a model to a bundle, planted one at a time.

A fault changes a copy of the portable model (as a rewrite or a lowering that is wrong would leave
it) or of the lowered one (as a kernel that is wrong would run it); what follows is the line as it
is.  Changes of a weight are made where it is read, and packed, written and hashed like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx_ir as ir

from moe_export.forms import Component, PortableModel, TargetModel

Array = np.ndarray


@dataclass(frozen=True)
class Fault:
    """A fault, and where validation has to say that it is."""

    name: str
    cause: str
    layer: str
    plant: Callable[[Component], Component] | None = None
    """In the portable model."""

    in_function: tuple[str, Callable[[ir.Function], None]] | None = None
    """In the function that stands for an op, in bundles for ``standard``."""


def planted(model: PortableModel, plant: Callable[[Component], Component]) -> PortableModel:
    """A copy of a portable model of one graph with its component changed."""
    component = model.components["model"]
    copy = replace(component, graph=component.graph.clone())
    return replace(model, components={"model": plant(copy)})


def in_functions(model: TargetModel, op: str, change: Callable[[ir.Function], None]) -> TargetModel:
    """The lowered model with the functions that stand for an op changed in all of its graphs."""
    graphs = [part.graph for part in model.components.values()]
    graphs += [*model.probe_graphs.values(), *model.expert_graphs.values()]
    graphs += model.replay_graphs.values()
    for graph in graphs:
        for function in graph.functions.values():
            if function.name == op:
                change(function)
    return model


def weight(name: str, change: Callable[[Array], Array]) -> Callable[[Component], Component]:
    """A weight that is another when it is read."""

    def plant(component: Component) -> Component:
        stored = component.weights[name]
        made = replace(
            stored,
            read=lambda: np.ascontiguousarray(change(stored.read()), stored.dtype),
            rows=None,
            pieces=None,
            origin=None,
        )
        return replace(component, weights={**component.weights, name: made})

    return plant


def all_of(*plants: Callable[[Component], Component]) -> Callable[[Component], Component]:
    def plant(component: Component) -> Component:
        for each in plants:
            component = each(component)
        return component

    return plant


def behind(
    value: str, op: str, other: Array | str | None = None, *attributes: ir.Attr
) -> Callable[[Component], Component]:
    """An operator between a value and all that reads it, which finds it under the same name."""

    def plant(component: Component) -> Component:
        insert(component.graph.graph, value, op, other, attributes)
        return component

    return plant


def insert(
    graph: ir.Graph | ir.Function,
    name: str,
    op: str,
    other: Array | str | None = None,
    attributes: Iterable[ir.Attr] = (),
) -> None:
    values = {str(v.name): v for node in graph for v in node.outputs}
    value = values[name]
    given: list[ir.Value | None] = [None]
    nodes = []
    if isinstance(other, str):
        given.append(values[other])
    elif other is not None:
        constant = ir.Node(
            "", "Constant", [], [ir.AttrTensor("value", ir.tensor(other))], num_outputs=1
        )
        nodes.append(constant)
        given.append(constant.outputs[0])
    node = ir.Node("", op, given, list(attributes), num_outputs=1)
    made = node.outputs[0]
    made.type, made.shape = value.type, value.shape
    for attribute in attributes:
        if attribute.name == "to":
            made.type = ir.TensorType(ir.DataType(attribute.as_int()))
    ir.convenience.replace_all_uses_with(value, made, replace_graph_outputs=True)
    node.replace_input_with(0, value)
    made.name, value.name = value.name, f"{value.name}/before {len(values)}"
    producer = value.producer()
    assert producer is not None
    # Behind all that it reads: the last of them in the order of the graph.
    order = list(graph)
    read = [v.producer() for v in (value, *given[1:]) if v is not None]
    last = max((n for n in read if n in order), key=order.index)
    graph.insert_after(last, [*nodes, node])
    for number, each in enumerate(nodes):
        each.outputs[0].name = f"{name}/constant {len(values)} {number}"


def node_attribute(node: str, attribute: ir.Attr) -> Callable[[Component], Component]:
    def plant(component: Component) -> Component:
        found = next(n for n in component.graph.graph if n.name == node)
        found.attributes[attribute.name] = attribute
        return component

    return plant


def without_input(node: str, place: int, weight_name: str) -> Callable[[Component], Component]:
    def plant(component: Component) -> Component:
        found = next(n for n in component.graph.graph if n.name == node)
        found.replace_input_with(place, None)
        del component.graph.graph.initializers[weight_name]
        weights = {k: w for k, w in component.weights.items() if k != weight_name}
        return replace(component, weights=weights)

    return plant


def swapped(one: int, other: int) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        made = array.copy()
        made[[one, other]] = array[[other, one]]
        return made

    return change


def reordered(order: Iterable[int], axis: int = 0) -> Callable[[Array], Array]:
    return lambda array: np.take(array, list(order), axis=axis)


def halves_swapped(array: Array) -> Array:
    return np.concatenate(np.split(array, 2, axis=1)[::-1], axis=1)


def _in_bf16(component: Component) -> Component:
    """The router's product in bfloat16: its rows, its matrix and what comes of them."""
    bf16, f32 = (
        ir.AttrInt64("to", kind.value) for kind in (ir.DataType.BFLOAT16, ir.DataType.FLOAT)
    )
    rounded = weight("first.gate.weight", lambda w: w.astype(ml_dtypes.bfloat16).astype(np.float32))
    component = rounded(component)
    for kind in (bf16, f32):
        insert(component.graph.graph, "first/router_logits", "Cast", None, [kind])
    return component


def _to_next_expert(function: ir.Function) -> None:
    insert(function, "ids", "Add", "one")


def _a_little_more(function: ir.Function) -> None:
    insert(function, "topk_weights", "Mul", np.array(1.001, np.float32))


_ZERO = np.zeros((), np.float32)

FAULTS = (
    Fault(
        "swapped experts",
        "lowering",
        "first",
        all_of(weight("first.up", swapped(0, 3)), weight("first.down", swapped(0, 3))),
    ),
    Fault(
        "transposed weight",
        "lowering",
        "first",
        weight("first.down", lambda w: w.transpose(0, 2, 1)),
    ),
    Fault("dropped bias", "lowering", "first", without_input("first/Experts", 5, "first.up_bias")),
    Fault("swapped gate and up", "lowering", "first", weight("first.up", halves_swapped)),
    Fault("shared expert added twice", "lowering", "second", behind("second/y", "Add", "addmm")),
    Fault("router in bf16", "router", "first", _in_bf16),
    Fault(
        "wrong normalisation of weights",
        "router",
        "first",
        node_attribute("first/Router", ir.AttrInt64("normalize", 0)),
    ),
    Fault(
        "baked-in routing",
        "router",
        "first",
        all_of(
            behind("first/topk_ids", "Mul", np.zeros((), np.int32)),
            behind("first/topk_ids", "Add", np.array([[1, 4]], np.int32)),
        ),
    ),
    Fault(
        "one expert more",
        "router",
        "second",
        node_attribute("second/Router", ir.AttrInt64("top_k", 3)),
    ),
    Fault("stale KV cache", "lowering", "first", behind("linear_1", "Mul", _ZERO)),
    Fault("dropped vision tower", "lowering", "first", behind("linear", "Mul", _ZERO)),
    Fault("wrong image normalisation", "lowering", "first", weight("mean", np.zeros_like)),
    Fault("wrong head", "lowering", "logits", weight("head.weight", swapped(2, 5))),
    Fault("off by one in dispatch", "kernel", "first", in_function=("Experts", _to_next_expert)),
    Fault("a router kernel that is off", "kernel", "first", in_function=("Router", _a_little_more)),
)
