"""Heads that are normed and turned by their positions, as one ``RotaryHeads``.

In standard ONNX that is a reshape to heads, RMSNormalization, a reshape back and RotaryEmbedding,
for queries and for keys of each layer.  With one token each of these nodes costs more than its
arithmetic does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from moe_export.moe.schema import DOMAIN, VERSION

_DEFAULT_EPSILON = 1e-5  # of RMSNormalization


def use_rotary_heads(graph: ir.Model, watched: Collection[str] = ()) -> None:
    """Replace rotary positions of the heads of ``[B, S, N*d]``, and the norm before them.

    *Requires* float32.  *Ensures* that values keep their names, and that a norm stays whose
    result is an output of the graph, is ``watched`` or is read by something else.  A second run
    does nothing.
    """
    for node in list(graph.graph):
        if (node.domain, node.op_type) == ("", "RotaryEmbedding"):
            _replace(graph.graph, node, watched)
    RemoveUnusedNodesPass()(graph)
    graph.graph.opset_imports.setdefault(DOMAIN, VERSION)


def _replace(graph: ir.Graph, node: ir.Node, watched: Collection[str]) -> None:
    (turned,) = node.outputs
    x, cos, sin, *positions = node.inputs
    given, width, half = node.attributes, _last(turned, rank=3), _last(cos, rank=3)
    heads, interleaved = given.get_int("num_heads", 0), given.get_int("interleaved", 0)
    if x is None or any(positions) or interleaved or not heads or not half:
        return
    size, rest = divmod(width, heads)
    pairs = given.get_int("rotary_embedding_dim", 0) or size
    if rest or pairs != 2 * half or _last(sin, rank=3) != half:
        return
    found = _heads_of(x, heads, size, watched)
    if found is None:
        return
    inputs, attributes = [found.rows, cos, sin], [ir.AttrInt64("num_heads", heads)]
    if found.norm is not None:
        inputs.append(found.norm)
        attributes.append(ir.AttrFloat32("epsilon", found.epsilon))
    made = ir.Node(DOMAIN, "RotaryHeads", inputs, attributes, num_outputs=1)
    (placed,) = made.outputs
    name, placed.type, placed.shape = turned.name, turned.type, turned.shape
    graph.insert_before(node, made)
    ir.convenience.replace_all_uses_with(turned, placed, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    placed.name = name


@dataclass(frozen=True)
class _Heads:
    """Rows ``[B, S, N*d]``, and the norm ``[d]`` of their heads."""

    rows: ir.Value
    norm: ir.Value | None = None
    epsilon: float = 0.0


def _heads_of(flat: ir.Value, heads: int, size: int, watched: Collection[str]) -> _Heads | None:
    """What ``flat`` is made of by taking heads apart, norming them or not, and back together."""
    together = _made_by(flat, "Reshape", watched)
    view = None if together is None else together.inputs[0]
    if view is None or _sizes(view) != (heads, size):
        return None
    norm, epsilon = None, 0.0
    normed = _made_by(view, "RMSNormalization", watched)
    if normed is not None:
        view, norm, *_ = normed.inputs
        epsilon = normed.attributes.get_float("epsilon", _DEFAULT_EPSILON)
        is_last = normed.attributes.get_int("axis", -1) in (-1, 3)
        if view is None or not is_last or _last(norm, rank=1) != size:
            return None
    apart = _made_by(view, "Reshape", watched)
    rows = None if apart is None else apart.inputs[0]
    if rows is None or _last(rows, rank=3) != heads * size or _leading(rows) != _leading(view):
        return None
    return _Heads(rows, norm, epsilon)


def _made_by(value: ir.Value, kind: str, watched: Collection[str]) -> ir.Node | None:
    """What makes a value that nothing else reads."""
    node = value.producer()
    alone = len(value.uses()) == 1 and not value.is_graph_output() and value.name not in watched
    return (
        node if node is not None and alone and (node.domain, node.op_type) == ("", kind) else None
    )


def _sizes(x: ir.Value) -> tuple[object, ...]:
    """N and d of ``[B, S, N, d]``."""
    return () if x.shape is None or len(x.shape) != 4 else (x.shape[2], x.shape[3])


def _leading(x: ir.Value) -> tuple[object, ...]:
    """B and S."""
    return () if x.shape is None else (x.shape[0], x.shape[1])


def _last(x: ir.Value | None, *, rank: int) -> int:
    """The last size of a value of that rank; 0 where it is not known."""
    shape = None if x is None else x.shape
    size = shape[-1] if shape is not None and len(shape) == rank else 0
    return size if isinstance(size, int) else 0
