"""What GPU kernels ask of the ``moe_export`` nodes of a graph, whoever launches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir

from moe_export.errors import UnsupportedError
from moe_export.forms import Array, Weight
from moe_export.moe.schema import DOMAIN, OPS

GPU_OPS = frozenset(("Router", "Experts", "Dispatch", "GroupedMatMul", "Combine"))
"""The ops that have GPU kernels; the others become standard operators."""

_SCALES = ("up_scales", "down_scales", "scales")
_ZEROS = ("up_zeros", "down_zeros", "zeros")
# What the kernels multiply: a weight format with what rows are rounded to before they meet it.
_PRODUCTS = {
    "f32": ("f32",),
    "f16": ("f32",),
    "bf16": ("f32", "bf16"),
    "int8": ("bf16",),
    "int4": ("bf16",),
}
_MOST_EXPERTS = 2048


def gpu_nodes(graph: ir.Model) -> Iterator[ir.Node]:
    """The nodes that a GPU kernel runs."""
    for node in graph.graph.all_nodes():
        if node.domain == DOMAIN and node.op_type in GPU_OPS:
            yield node


def give_narrow_scales(graph: ir.Model, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The weights, with the scales of GPU kernels' nodes as bfloat16, each the same number.

    A second run does nothing.
    """
    made = dict(weights)
    for node in gpu_nodes(graph):
        for name, value in given_inputs(node).items():
            if name not in _SCALES or made[str(value.name)].dtype != np.float32:
                continue
            made[str(value.name)] = _narrowed(made[str(value.name)], str(node.name))
            value.type = ir.TensorType(ir.DataType.BFLOAT16)
    return made


def give_gates_first(graph: ir.Model, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The weights, with gates and values that lie in turn put one behind the other.

    A second run does nothing.
    """
    made = dict(weights)
    turned: dict[str, bool] = {}
    for node in gpu_nodes(graph):
        layout = node.attributes.get("gate_layout")
        in_turn = layout is not None and layout.as_string() == "interleaved"
        for name, value in given_inputs(node).items():
            if not name.startswith("up"):
                continue
            key = str(value.name)
            if turned.setdefault(key, in_turn) != in_turn:
                raise AssertionError(f"{key!r} has its gates in two places")
            if in_turn and made[key] is weights[key]:
                made[key] = _changed(weights[key], _gates_first)
        if in_turn:
            node.attributes.add(ir.AttrString("gate_layout", "concatenated"))
    return made


def _gates_first(rows: Array) -> Array:
    """``[E, 2I, ..]`` with gates in the even rows as gates and then values."""
    return np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1)


def _narrowed(scales: Weight, where: str) -> Weight:
    def narrow(numbers: Array) -> Array:
        narrowed = numbers.astype(ml_dtypes.bfloat16)
        if not np.array_equal(narrowed.astype(np.float32), numbers, equal_nan=True):
            raise UnsupportedError(
                "a weight has scales that bfloat16 does not hold, which is what GPU kernels take",
                where=where,
                hint="let moe-export quantise the weights: its scales are such numbers",
            )
        return narrowed

    return replace(_changed(scales, narrow), dtype=np.dtype(ml_dtypes.bfloat16))


def _changed(weight: Weight, change: Callable[[Array], Array]) -> Weight:
    """A weight of the same shape, made of this one by experts where it is read so."""
    rows = weight.rows
    return replace(
        weight,
        read=lambda: change(weight.read()),
        rows=None if rows is None else lambda start, stop: change(rows(start, stop)),
        pieces=None,
        origin=None,
    )


def given_inputs(node: ir.Node) -> dict[str, ir.Value]:
    """What the node has, by the names of the op's schema."""
    pairs = zip(OPS[node.op_type].inputs, node.inputs, strict=False)
    return {given.name: value for given, value in pairs if value is not None}


def require_kernel(node: ir.Node, weights: Mapping[str, Weight]) -> None:
    """Refuse with ``UnsupportedError`` what GPU kernels cannot do."""
    where, given = str(node.name), given_inputs(node)
    stored, rows = (_word(node, name) for name in ("weight_format", "row_format"))
    if rows not in _PRODUCTS[stored]:
        goes = " or ".join(f"{stored}@{each}" for each in _PRODUCTS[stored])
        raise UnsupportedError(
            f"GPU kernels do not multiply {stored} weights with rows of {rows}",
            where=where,
            hint=f"--precision {goes}",
        )
    logits = given.get("router_logits")
    experts = None if logits is None or logits.shape is None else logits.shape[-1]
    if isinstance(experts, int) and experts > _MOST_EXPERTS:
        raise UnsupportedError(
            f"the router's kernel chooses among {_MOST_EXPERTS} experts at most, not {experts}",
            where=where,
        )
    if any(name in _ZEROS for name in given):
        raise UnsupportedError(
            "GPU kernels take no weights with zero points",
            where=where,
            hint="--precision without +zeros",
        )
    for name, value in given.items():
        weight = weights.get(str(value.name))
        if weight is not None and weight.dtype.name == "int4" and weight.shape[-1] % 2:
            raise UnsupportedError(
                f"rows of {weight.shape[-1]} int4 end within a byte, which GPU kernels do not read",
                where=f"{where}, {name}",
                hint="--precision int8@bf16",
            )


def _word(node: ir.Node, name: str) -> str:
    given = node.attributes.get(name)
    return "f32" if given is None else given.as_string()
