"""Products with a weight as ``moe_export.Linear``, which keeps the weight as PyTorch has it.

The exporter writes ``linear(x, W, b)`` as a product with ``W`` turned round, or as a Gemm.  A
runtime that folds constants would keep the turned copy in memory beside the mapped file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from moe_export.forms import Weight
from moe_export.moe.schema import DOMAIN, VERSION


def use_linear(graph: ir.Model, weights: Mapping[str, Weight]) -> None:
    """Replace the products with float32 weights that nothing else reads.

    *Requires* that weights are initializers by their names.  *Ensures* that each product's value
    keeps its name.
    """
    for node in list(graph.graph):
        found = _parts(node)
        if found is None:
            continue
        x, weight, bias = found
        facts = weights.get(str(weight.name))
        if facts is None or facts.dtype != np.float32 or len(facts.shape) != 2:
            continue
        if not all(_multiplies(user, weight) for user, _ in weight.uses()):
            continue
        _replace(graph, node, [x, weight] if bias is None else [x, weight, bias])
    graph.graph.opset_imports.setdefault(DOMAIN, VERSION)


Parts = tuple[ir.Value, ir.Value, ir.Value | None]


def _parts(node: ir.Node) -> Parts | None:
    return _gemm(node) if node.op_type == "Gemm" else _turned(node)


def _gemm(node: ir.Node) -> Parts | None:
    """``x @ W.T + b`` of a matrix x, be ``W`` turned by the node or before it."""
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    if (given.get("alpha", 1.0), given.get("beta", 1.0), given.get("transA", 0)) != (1.0, 1.0, 0):
        return None
    x, right, *rest = node.inputs
    weight = right if given.get("transB", 0) else _turned_weight(right)
    bias = rest[0] if rest else None
    if x is None or weight is None or (bias is not None and not _is_for_each_row(bias, weight)):
        return None
    return x, weight, bias


def _turned(node: ir.Node) -> Parts | None:
    """``x @ Transpose(W)``."""
    if node.op_type != "MatMul" or node.domain:
        return None
    x, right = node.inputs
    weight = _turned_weight(right)
    return None if x is None or weight is None else (x, weight, None)


def _turned_weight(right: ir.Value | None) -> ir.Value | None:
    """``W``, where the value is its transpose."""
    turn = None if right is None else right.producer()
    if turn is None or turn.op_type != "Transpose":
        return None
    order = turn.attributes.get("perm")
    return turn.inputs[0] if order is None or list(order.as_ints()) == [1, 0] else None


def _is_for_each_row(bias: ir.Value, weight: ir.Value) -> bool:
    """Whether it is ``[N]`` for a weight ``[N, H]``: a Gemm takes one number for all as well."""
    known = bias.shape is not None and weight.shape is not None
    return known and list(bias.shape or ()) == list(weight.shape or ())[:1]


def _multiplies(user: ir.Node, weight: ir.Value) -> bool:
    """Whether the use is one that is being replaced, or has been."""
    if user.op_type == "Transpose":
        (turned,) = user.outputs
        return all(_parts(product) is not None for product, _ in turned.uses())
    if user.op_type == "Gemm":
        return _gemm(user) is not None and user.inputs[1] is weight
    return user.domain == DOMAIN and user.op_type == "Linear"


def _replace(graph: ir.Model, node: ir.Node, inputs: list[ir.Value]) -> None:
    (old,) = node.outputs
    made = ir.Node(DOMAIN, "Linear", inputs, name=node.name, num_outputs=1)
    (new,) = made.outputs
    new.type, new.shape = old.type, old.shape
    name = old.name
    graph.graph.insert_after(node, made)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.graph.remove(node, safe=True)
    new.name = name
