"""Attention behind a cache as ``moe_export.CachedAttention``, which lets it grow in place."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleSet, pattern

from moe_export.moe.schema import DOMAIN, VERSION

# From [P, B, M, d], as a cache lies, to [B, M, P, d] and back.
_BY_HEAD, _BY_TOKEN = [1, 2, 0, 3], [2, 0, 1, 3]
# From [B, S, N, d] to [B, N, S, d] and back.
_SWAPPED = [0, 2, 1, 3]


def use_cached_attention(graph: ir.Model) -> None:
    """Fuse keys and values that are put behind those of before with what attends to them.

    *Requires* rotary positions fused.  *Ensures* that inputs and outputs keep their values.
    """
    RewriteRuleSet([_CachedAttention.rule()]).apply_to_model(graph)
    RewriteRuleSet([_Returned.rule(), _FlatRotary.rule(), _Flat.rule()]).apply_to_model(graph)


class _CachedAttention(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """``[B, N, S, d]`` attending to a cache of ``[P, B, M, d]`` and to themselves."""

    def __init__(self) -> None:
        super().__init__("cached attention")

    def pattern(
        self, op: Any, query: Any, key: Any, value: Any, past_key: Any, past_value: Any, mask: Any
    ) -> Any:
        before = [op.Transpose(past, perm=_BY_HEAD) for past in (past_key, past_value)]
        keys = op.Concat(before[0], key, axis=-2, _outputs=["keys"])
        values = op.Concat(before[1], value, axis=-2, _outputs=["values"])
        made = op.Attention(query, keys, values, mask, _outputs=["made"])
        return made, keys, values

    def check(self, context: Any, made: ir.Value, **found: ir.Value) -> Any:
        result = pattern.MatchResult()
        # Causal from the first key on would be another mask beside its own.
        if _attribute(made, "is_causal") or _attribute(made, "softcap"):
            return result.fail("it does more than to attend")
        if any(_sizes(found[name]) is None for name in ("query", "key", "value")):
            return result.fail("the numbers of heads are not known")
        mask, query = found["mask"], found["query"]
        if mask.dtype != ir.DataType.BOOL or mask.shape is None or query.shape is None:
            return result.fail("the mask is not known to be of truth values")
        if len(mask.shape) != 4 or mask.shape[1] != 1 or mask.shape[2] != query.shape[2]:
            return result.fail("the mask is not [B, 1, S, P+S]")
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
        flat = [_flattened(op, x) for x in (query, key, value)]
        y, present_key, present_value = op.CachedAttention(
            *flat,
            mask,
            past_key,
            past_value,
            scale=_attribute(made, "scale"),
            _domain=DOMAIN,
            _version=VERSION,
            _outputs=3,
        )
        heads, width = (_sizes(query) or (0, 0))[0], (_sizes(value) or (0, 0))[1]
        _describe(y, query, [heads * width])
        apart = op.Reshape(y, op.Constant(value_ints=[0, 0, heads, width]))
        _describe(apart, query, [heads, width])
        by_head = [op.Transpose(x, perm=_BY_HEAD) for x in (present_key, present_value)]
        return op.Transpose(apart, perm=_SWAPPED), *by_head


class _Returned(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """A cache that was turned to attend to it, and is turned back to be returned."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Transpose(op.Transpose(x, perm=_BY_HEAD), perm=_BY_TOKEN)

    def rewrite(self, op: Any, x: ir.Value) -> Any:
        return op.Identity(x)


class _FlatRotary(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """Rotary positions between transpositions, which the operator can do without."""

    def pattern(self, op: Any, x: Any, cos: Any, sin: Any, shape: Any) -> Any:
        turned = op.RotaryEmbedding(op.Transpose(x, perm=_SWAPPED), cos, sin, interleaved=0)
        return op.Reshape(op.Transpose(turned, perm=_SWAPPED), shape, _outputs=["flat"])

    def check(self, context: Any, x: ir.Value, flat: ir.Value, **_: Any) -> Any:
        result = pattern.MatchResult()
        if _flat_width(x) is None or _flat_width(x) != _last(flat):
            return result.fail("it is not known to lie head by head")
        return result

    def rewrite(
        self, op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, shape: ir.Value, **_: Any
    ) -> Any:
        heads = 0 if x.shape is None else x.shape[2]
        return op.RotaryEmbedding(op.Reshape(x, shape), cos, sin, interleaved=0, num_heads=heads)


class _Flat(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """``[B, S, N*d]`` taken apart, turned twice and put together."""

    def pattern(self, op: Any, x: Any) -> Any:
        apart = op.Reshape(x, pattern.ANY_VALUE, _outputs=["apart"])
        turned = op.Transpose(op.Transpose(apart, perm=_SWAPPED), perm=_SWAPPED)
        return op.Reshape(turned, pattern.ANY_VALUE, _outputs=["flat"])

    def check(self, context: Any, x: ir.Value, apart: ir.Value, flat: ir.Value) -> Any:
        result = pattern.MatchResult()
        if _last(x) is None or not _last(x) == _flat_width(apart) == _last(flat):
            return result.fail("it is not known to be what it was")
        return result

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Identity(x)


def _flattened(op: Any, x: ir.Value) -> ir.Value:
    """``[B, N, S, d]`` as ``[B, S, N*d]``."""
    heads, width = _sizes(x) or (0, 0)
    flat: ir.Value = op.Reshape(op.Transpose(x, perm=_SWAPPED), op.Constant(value_ints=[0, 0, -1]))
    _describe(flat, x, [heads * width])
    return flat


def _describe(made: ir.Value, x: ir.Value, sizes: list[int]) -> None:
    """Say of ``made`` that it is as many rows of such sizes as ``x [B, N, S, d]`` has."""
    if x.shape is not None:
        made.shape = ir.Shape([x.shape[0], x.shape[2], *sizes])
    if x.dtype is not None:
        made.dtype = x.dtype


def _sizes(x: ir.Value) -> tuple[int, int] | None:
    """N and d of ``[B, N, S, d]``."""
    if x.shape is None or len(x.shape) != 4:
        return None
    heads, width = x.shape[1], x.shape[3]
    return (heads, width) if isinstance(heads, int) and isinstance(width, int) else None


def _flat_width(x: ir.Value) -> int | None:
    """N*d of ``[B, S, N, d]``."""
    if x.shape is None or len(x.shape) != 4:
        return None
    heads, width = x.shape[2], x.shape[3]
    return heads * width if isinstance(heads, int) and isinstance(width, int) else None


def _last(x: ir.Value) -> int | None:
    """The last size of ``[B, S, n]``."""
    if x.shape is None or len(x.shape) != 3 or not isinstance(x.shape[2], int):
        return None
    return x.shape[2]


def _attribute(made: ir.Value, name: str) -> float:
    """An attribute of what made the value; all that are asked for are 0 where they are absent."""
    producer = made.producer()
    attribute = None if producer is None else producer.attributes.get(name)
    return 0.0 if attribute is None else float(attribute.value)
