"""Products of the same rows with several matrices, as one product with all of them.

Queries, keys and values are such products, and gates and values of a dense layer.  Together they
are one node instead of several: rows are rounded once, threads meet once, and the matrices lie one
behind the other and are read in one stream.  Results keep their bits, for a product is a sum over
columns in one order whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from moe_export.forms import Array, Weight, shared_words
from moe_export.moe.schema import DOMAIN, OPS

_INPUTS = [given.name for given in OPS["Linear"].inputs]


def join_products(
    graph: ir.Model, weights: Mapping[str, Weight], watched: Collection[str] = ()
) -> dict[str, Weight]:
    """The weights of the graph, whose ``Linear`` nodes of the same rows are one, and a ``Split``.

    *Requires* that the matrices of ``Linear`` nodes are weights.  *Ensures* that all values keep
    their names; that nodes whose result is an output of the graph or ``watched`` stay alone, and
    so do those whose weights something else reads too.  A second run does nothing.
    """
    groups: dict[Hashable, list[ir.Node]] = {}
    for node in graph.graph:
        if (node.domain, node.op_type) == (DOMAIN, "Linear"):
            made = node.outputs[0]
            if not made.is_graph_output() and made.name not in watched and _has_its_own(node):
                groups.setdefault(_kind(node, weights), []).append(node)
    all_weights = dict(weights)
    for nodes in groups.values():
        if len(nodes) > 1:
            _join(graph.graph, nodes, all_weights)
    return all_weights


def _has_its_own(node: ir.Node) -> bool:
    return all(
        value.is_initializer() and len(value.uses()) == 1
        for value in node.inputs[1:]
        if value is not None
    )


def _kind(node: ir.Node, weights: Mapping[str, Weight]) -> Hashable:
    """What products have in common that can be one."""
    present = tuple(
        None
        if value is None
        else (weights[str(value.name)].dtype, weights[str(value.name)].shape[1:])
        for value in node.inputs[1:]
    )
    attributes = tuple(sorted((name, each.value) for name, each in node.attributes.items()))
    return node.inputs[0], present, attributes


def _join(graph: ir.Graph, nodes: Sequence[ir.Node], weights: dict[str, Weight]) -> None:
    inputs: list[ir.Value | None] = [nodes[0].inputs[0]]
    rows = [weights[_name(node, "weight")].shape[0] for node in nodes]
    for place in range(1, len(nodes[0].inputs)):
        values = [node.inputs[place] for node in nodes]
        inputs.append(_joined_input(graph, [v for v in values if v is not None], weights))
    product = ir.Node(DOMAIN, "Linear", inputs, nodes[0].attributes.values(), num_outputs=1)
    (whole,) = product.outputs
    whole.name = f"{_name(product, 'weight')}.product"
    x = nodes[0].inputs[0]
    if x is not None and x.shape is not None:
        whole.shape = ir.Shape([*list(x.shape)[:-1], sum(rows)])
    whole.type = nodes[0].outputs[0].type
    sizes = ir.Node("", "Constant", [], [ir.AttrInt64s("value_ints", rows)], num_outputs=1)
    sizes.outputs[0].name = f"{_name(product, 'weight')}.sizes"
    split = ir.Node(
        "", "Split", [whole, sizes.outputs[0]], [ir.AttrInt64("axis", -1)], num_outputs=len(nodes)
    )
    graph.insert_before(nodes[0], [product, sizes, split])
    for node, part in zip(nodes, split.outputs, strict=True):
        (old,) = node.outputs
        name, part.type, part.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, part)
        graph.remove(node, safe=True)
        part.name = name


def _name(node: ir.Node, kind: str) -> str:
    value = node.inputs[_INPUTS.index(kind)]
    if value is None:
        raise AssertionError(f"{node.name!r} has no {kind}")
    return str(value.name)


def _joined_input(
    graph: ir.Graph, values: Sequence[ir.Value], weights: dict[str, Weight]
) -> ir.Value | None:
    """One initializer and weight in the place of those, in their order."""
    if not values:
        return None
    names = [str(value.name) for value in values]
    joined = _one_behind_the_other([weights.pop(name) for name in names])
    made = ir.Value(name=_joined_name(names), type=values[0].type, shape=ir.Shape(joined.shape))
    for name in names:
        del graph.initializers[name]
    graph.initializers.add(made)
    weights[str(made.name)] = joined
    return made


def _one_behind_the_other(parts: Sequence[Weight]) -> Weight:
    origins = tuple(part.origin for part in parts)

    def read() -> Array:
        return np.concatenate([part.read() for part in parts])

    return replace(
        parts[0],
        shape=(sum(part.shape[0] for part in parts), *parts[0].shape[1:]),
        sources=tuple(source for part in parts for source in part.sources),
        read=read,
        rows=None,
        pieces=None,
        origin=None if None in origins else ("joined", origins),
    )


def _joined_name(names: Sequence[str]) -> str:
    """``a.q.weight`` and ``a.k.weight`` are ``a.q+k.weight``."""
    words = [name.split(".") for name in names]
    front = shared_words(words)
    back = shared_words([each[front:][::-1] for each in words])
    inner = "+".join(".".join(each[front : len(each) - back]) for each in words)
    return ".".join([*words[0][:front], inner, *words[0][len(words[0]) - back :]])
