"""Write arithmetic that has an operator as that operator: norms, rotary positions, attention.

Each rule matches what the exporter makes of PyTorch's own code, and replaces it by the operator
that means the same: one of the ONNX standard, or of the op set.  Golden tensors hold the graph
against the eager model later.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter import RewriteRuleSet, pattern

from moe_export.capture.constants import numbers_of
from moe_export.capture.fuse_attention import use_cached_attention
from moe_export.capture.identities import drop_identities
from moe_export.capture.scatters import simplify_choices


def fuse(graph: ir.Model) -> None:
    """Fuse what can be; *ensures* that inputs, outputs and probes keep their values."""
    drop_identities(graph)
    simplify_choices(graph)
    norms = [_Norm.rule(scale_first=first) for first in (True, False)]
    RewriteRuleSet([*norms, _Rotary.rule()]).apply_to_model(graph)
    use_cached_attention(graph)
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


def _number(value: ir.Value | None) -> float | None:
    """The one number of a constant."""
    numbers = numbers_of(value)
    return numbers.item() if numbers is not None and numbers.size == 1 else None
