"""The NumPy oracle beside an op of a bundle, on what the op was given and with its own weights.

An op whose result is further from the oracle's than rounding explains does not compute what the
graph says: its kernel is wrong, or the function that stands for one.  Where it does, and the model
is wrong all the same, the graph says the wrong thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moe_export.moe import packing
from moe_export.moe.layer import AttributeValue, ExpertsSpec, RouterSpec
from moe_export.moe.reference import experts, linear, route, routing_margin
from moe_export.moe.schema import DOMAIN, OPS
from moe_export.moe.tolerance import (
    experts_bound,
    linear_bound,
    router_bound,
    selecting_scores_bound,
)
from moe_export.runtime.nodes import Node, Written

if TYPE_CHECKING:
    from moe_export.runtime.bundle import Bundle, Graph

Array = npt.NDArray[Any]


class Oracle:
    """Ops of one graph of a bundle, each checked on numbers that are given."""

    def __init__(self, bundle: Bundle, component: str, graph: Graph) -> None:
        self._written = Written(bundle, component, graph)

    def logits_are_right(
        self, router_logits: str, x_name: str, x: Array, made: Array
    ) -> bool | None:
        """Whether ``made [T, E]`` is the product of ``x [T, H]`` and the router's stored matrix.

        ``None`` where no ``Linear`` op in float32 makes it of ``x`` itself.
        """
        node = self._written.maker(router_logits)
        if node is None or (node.domain, node.op_type) != (DOMAIN, "Linear"):
            return None
        given, attributes = self._of(node)
        if node.inputs[0] != x_name or attributes["weight_format"] != "f32":
            return None
        matrix, bias = given["weight"].reshape(made.shape[1], x.shape[1]), given.get("bias")
        expected = linear(x.astype(np.float64), matrix, bias)
        return _within(made, expected, linear_bound(x, matrix, bias))

    def router_is_right(
        self, topk_ids: str, logits: Array, ids: Array, weights: Array
    ) -> bool | None:
        """Whether a router's choice for ``logits [T, E]`` is that of the op as it is written.

        ``topk_ids`` names the value in the graph.  Choices between experts whose scores rounding
        may exchange are right either way.  ``None`` where no ``Router`` op makes it.
        """
        node = self._written.maker(topk_ids)
        if node is None or (node.domain, node.op_type) != (DOMAIN, "Router"):
            return None
        given, attributes = self._of(node)
        bias, scale = given.get("correction_bias"), given.get("expert_scale")
        spec = RouterSpec(num_experts=logits.shape[1], **attributes)
        exact = logits.astype(np.float64)
        if ids.shape != (len(logits), spec.top_k) or np.any((ids < 0) | (ids >= logits.shape[1])):
            return False
        _, expected = route(exact, spec, correction_bias=bias)
        error = selecting_scores_bound(exact, spec, correction_bias=bias).max(axis=1, initial=0)
        near = routing_margin(exact, spec, correction_bias=bias) <= 4 * error
        same = (np.sort(ids, axis=1) == np.sort(expected, axis=1)).all(axis=1)
        wanted, _ = route(exact, spec, correction_bias=bias, expert_scale=scale, topk_ids=ids)
        bound = router_bound(exact, ids, spec, expert_scale=scale)
        return bool((same | near).all()) and _within(weights, wanted, bound)

    def experts_are_right(
        self, experts_y: str, x: Array, ids: Array, weights: Array, y: Array
    ) -> bool | None:
        """Whether ``y [T, Hout]`` is what the op as it is written makes of ``x`` and its routing.

        ``experts_y`` names the value in the graph.  ``None`` where no ``Experts`` op makes it (some
        layers are several ops), or its weights lie in a way that nobody can read here.
        """
        node = self._written.maker(experts_y)
        if node is None or (node.domain, node.op_type) != (DOMAIN, "Experts"):
            return None
        try:
            given, attributes = self._of(node)
        except ImportError:  # of ml_dtypes, which bfloat16 and int4 need and running them does not
            return None
        for name in ("x", "topk_ids", "topk_weights"):
            given.pop(name, None)
        up, down = given.get("up"), given["down"]
        spec = ExpertsSpec(
            num_experts=down.shape[0],
            hidden_size=(down if up is None else up).shape[2],
            intermediate_size=0 if up is None else down.shape[2],
            output_size=down.shape[1],
            **attributes,
        )
        weights_of: dict[str, Any] = dict(given)
        expected = experts(x.astype(np.float64), ids, weights, spec, **weights_of)
        return _within(y, expected, experts_bound(x, ids, weights, spec, **weights_of))

    def _of(self, node: Node) -> tuple[dict[str, Array], dict[str, Any]]:
        """The weights of an op in rows, by input, and its attributes."""
        schema = OPS[node.op_type]
        defaults = {a.name: a.default for a in schema.attributes if a.default is not None}
        written = {
            a.name: node.attributes[a.name] for a in schema.attributes if a.name in node.attributes
        }
        attributes: dict[str, AttributeValue] = {**defaults, **written}
        layout = attributes.pop("weight_layout", "rows")
        given: dict[str, Array] = {}
        for known, name in zip(schema.inputs, node.inputs, strict=False):
            stored = self._written.tensor(name) if name else None
            if stored is None:
                continue
            if layout == "panels" and known.type == "weight":
                interleaved = known.name == "up" and attributes["gate_layout"] == "interleaved"
                given |= _in_rows(known.name, stored, interleaved=interleaved)
            else:
                given[known.name] = stored
        return given, attributes


def _in_rows(name: str, blob: Array, *, interleaved: bool) -> dict[str, Array]:
    values, scales, zeros, header = packing.unpack(blob)
    parts = {name: values, f"{name}_scales": scales, f"{name}_zeros": zeros}
    order = np.arange(header.rows)
    if interleaved and header.gated:
        order = order.reshape(2, -1).T.reshape(-1)  # gates and values in turn, as the source had it
    return {key: part[:, order] for key, part in parts.items() if part is not None}


def _within(made: Array, expected: Array, bound: Array) -> bool:
    if made.shape != expected.shape:
        return False
    number = np.isfinite(expected)
    if not np.array_equal(made[~number], expected[~number].astype(made.dtype), equal_nan=True):
        return False
    off = np.abs(made[number].astype(np.float64) - expected[number])
    return bool((off <= bound[number]).all())
