"""Write arithmetic that has an ONNX operator as that operator: norms, rotary positions, attention.

Each rule matches what the exporter makes of PyTorch's own code, and replaces it by the operator of
the ONNX standard that means the same; golden tensors hold the graph against the eager model later.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter import RewriteRuleSet, pattern


def fuse(graph: ir.Model) -> None:
    """Fuse what can be; *ensures* that inputs, outputs and probes keep their values."""
    norms = [_Norm.rule(scale_first=first) for first in (True, False)]
    RewriteRuleSet([*norms, _Rotary.rule(), _CachedAttention.rule()]).apply_to_model(graph)
    RewriteRuleSet([_FlatAttention.rule()]).apply_to_model(graph)
    RemoveUnusedNodesPass()(graph)


class _Norm(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """``scale * x / sqrt(mean(x**2) + epsilon)`` over the last axis."""

    def __init__(self, *, scale_first: bool) -> None:
        super().__init__("norm")
        self._scale_first = scale_first

    def pattern(self, op: Any, x: Any, scale: Any, epsilon: Any, axes: Any) -> Any:
        mean = op.ReduceMean(op.Pow(x, 2.0), axes, keepdims=1, _allow_other_attributes=True)
        normed = op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon))))
        return op.Mul(scale, normed) if self._scale_first else op.Mul(normed, scale)

    def check(
        self, context: Any, scale: ir.Value, epsilon: ir.Value, axes: ir.Value, **_: Any
    ) -> Any:
        result = pattern.MatchResult()
        if _number(axes) != -1 or _number(epsilon) is None:
            return result.fail("it is not over the last axis, or epsilon is not a number")
        if scale.shape is None or len(scale.shape) != 1:
            return result.fail("the scale is not a vector")
        return result

    def rewrite(self, op: Any, x: ir.Value, scale: ir.Value, epsilon: ir.Value, **_: Any) -> Any:
        return op.RMSNormalization(x, scale, axis=-1, epsilon=float(_number(epsilon) or 0.0))


class _Rotary(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """``x * cos + rotate_half(x) * sin`` on ``[B, N, S, d]``, halves of cos and sin alike."""

    def __init__(self) -> None:
        super().__init__("rotary positions", remove_nodes=False)  # queries and keys share angles

    def pattern(self, op: Any, x: Any, cos: Any, sin: Any, middle: Any, end: Any) -> Any:
        whole_cos = op.Unsqueeze(op.Concat(cos, cos, axis=-1), pattern.Var("axis"))
        whole_sin = op.Unsqueeze(op.Concat(sin, sin, axis=-1), pattern.Var("axis_too"))
        first = op.Slice(x, pattern.Var("zero"), middle, pattern.Var("last"), pattern.ANY_VALUE)
        second = op.Slice(
            x, pattern.Var("middle_too"), end, pattern.Var("last_too"), pattern.ANY_VALUE
        )
        turned = op.Concat(op.Neg(second), first, axis=-1)
        return op.Add(op.Mul(x, whole_cos), op.Mul(turned, whole_sin))

    def check(
        self,
        context: Any,
        x: ir.Value,
        cos: ir.Value,
        sin: ir.Value,
        middle: ir.Value,
        **found: Any,
    ) -> Any:
        result = pattern.MatchResult()
        if x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[3], int):
            return result.fail("x is not known to be [B, N, S, d]")
        half = x.shape[3] // 2
        wanted = {"zero": 0, "middle_too": half, "axis": 1, "axis_too": 1}
        values = {name: _number(found[name]) for name in wanted} | {"middle": _number(middle)}
        last = {_number(found["last"]), _number(found["last_too"])}
        if values != {**wanted, "middle": half} or not last <= {3, -1}:
            return result.fail("x is not turned by halves of its last axis")
        # The operator lets no batch share its positions.
        if not cos.shape == sin.shape == ir.Shape([x.shape[0], x.shape[2], half]):
            return result.fail("there is not an angle for each row and pair of x")
        return result

    def rewrite(self, op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, **_: Any) -> Any:
        return op.RotaryEmbedding(x, cos, sin, interleaved=0)


class _CachedAttention(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """Keys and values that are put behind those of before, which go on as the next cache."""

    def __init__(self) -> None:
        super().__init__("cached attention")

    def pattern(
        self, op: Any, query: Any, key: Any, value: Any, past_key: Any, past_value: Any, mask: Any
    ) -> Any:
        keys = op.Concat(past_key, key, axis=-2, _outputs=["keys"])
        values = op.Concat(past_value, value, axis=-2, _outputs=["values"])
        made = op.Attention(query, keys, values, mask, _outputs=["made"])
        return made, keys, values

    def check(self, context: Any, made: ir.Value, **_: Any) -> Any:
        result = pattern.MatchResult()
        producer = made.producer()
        # Causal from the first key on: behind a cache the operator counts from its end.
        if producer is None or producer.attributes.get_int("is_causal"):
            return result.fail("it is causal beside its mask")
        return result

    def rewrite(
        self,
        op: Any,
        query: ir.Value,
        key: ir.Value,
        value: ir.Value,
        past_key: ir.Value,
        past_value: ir.Value,
        mask: ir.Value,
        made: ir.Value,
        **_: Any,
    ) -> Any:
        producer = made.producer()
        attributes = {} if producer is None else producer.attributes
        return op.Attention(query, key, value, mask, past_key, past_value, **attributes, _outputs=3)


class _FlatAttention(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """Cached attention on ``[B, N, S, d]`` between transpositions, as one on ``[B, S, N*d]``."""

    def pattern(
        self,
        op: Any,
        query: Any,
        key: Any,
        value: Any,
        cos: Any,
        sin: Any,
        mask: Any,
        past_key: Any,
        past_value: Any,
    ) -> Any:
        placed = [
            op.RotaryEmbedding(op.Transpose(x, perm=[0, 2, 1, 3]), cos, sin, interleaved=0)
            for x in (query, key)
        ]
        values = op.Transpose(op.Reshape(value, pattern.ANY_VALUE), perm=[0, 2, 1, 3])
        made, keys, next_values = op.Attention(
            *placed,
            values,
            mask,
            past_key,
            past_value,
            _allow_other_attributes=True,
            _outputs=["made", "keys", "next_values"],
        )
        turned = op.Transpose(made, perm=[0, 2, 1, 3])
        return op.Reshape(turned, pattern.ANY_VALUE, _outputs=["flat"]), keys, next_values

    def check(
        self,
        context: Any,
        query: ir.Value,
        key: ir.Value,
        value: ir.Value,
        past_value: ir.Value,
        flat: ir.Value,
        **_: Any,
    ) -> Any:
        result = pattern.MatchResult()
        heads, cached = _heads(query), _heads(key)
        if heads is None or cached is None or past_value.shape is None:
            return result.fail("the numbers of heads are not known")
        widths = (_last(value), _last(flat), past_value.shape[3], past_value.shape[1])
        if widths != (cached[0] * widths[2], heads[0] * widths[2], widths[2], cached[0]):
            return result.fail("values or results do not lie head by head")
        return result

    def rewrite(
        self,
        op: Any,
        query: ir.Value,
        key: ir.Value,
        value: ir.Value,
        cos: ir.Value,
        sin: ir.Value,
        mask: ir.Value,
        past_key: ir.Value,
        past_value: ir.Value,
        made: ir.Value,
        **_: Any,
    ) -> Any:
        producer = made.producer()
        attributes = {} if producer is None else dict(producer.attributes)
        flat_shape = op.Constant(value_ints=[0, 0, -1])
        heads = [_heads(x) or (0, 0) for x in (query, key)]
        placed = [
            op.RotaryEmbedding(op.Reshape(x, flat_shape), cos, sin, interleaved=0, num_heads=n)
            for x, (n, _) in zip((query, key), heads, strict=True)
        ]
        return op.Attention(
            *placed,
            value,
            mask,
            past_key,
            past_value,
            **attributes,
            q_num_heads=heads[0][0],
            kv_num_heads=heads[1][0],
            _outputs=3,
        )


def _heads(x: ir.Value) -> tuple[int, int] | None:
    """N and d of ``[B, S, N, d]``."""
    if x.shape is None or len(x.shape) != 4:
        return None
    heads, width = x.shape[2], x.shape[3]
    return (heads, width) if isinstance(heads, int) and isinstance(width, int) else None


def _last(x: ir.Value) -> int | None:
    """The last size of ``[B, S, n]``."""
    if x.shape is None or len(x.shape) != 3 or not isinstance(x.shape[2], int):
        return None
    return x.shape[2]


def _number(value: ir.Value | None) -> float | None:
    """The one number of a constant."""
    constant = None if value is None else ir.convenience.get_const_tensor(value)
    return constant.numpy().item() if constant is not None and constant.size == 1 else None
