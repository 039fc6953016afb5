"""Nodes that give what they are given: slices of everything, and products with one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleSet, pattern

from moe_export.capture.constants import numbers_of

# torch.export writes the end of an axis, whatever its size, as the largest number there is.
_END = np.iinfo(np.int64).max


def drop_identities(graph: ir.Model) -> None:
    """Give their inputs in their place; *ensures* that all values stay what they are."""
    RewriteRuleSet([_WholeSlice.rule(), _TimesOne.rule()]).apply_to_model(graph)


class _WholeSlice(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """From the first to the last of axes, one by one."""

    def pattern(self, op: Any, x: Any, first: Any, end: Any, steps: Any) -> Any:
        return op.Slice(x, first, end, pattern.ANY_VALUE, steps)

    def check(self, context: Any, first: ir.Value, end: ir.Value, steps: ir.Value, **_: Any) -> Any:
        result = pattern.MatchResult()
        if not (_all(first, 0) and _all(end, _END) and _all(steps, 1)):
            return result.fail("it is not known to be everything")
        return result

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Identity(x)


class _TimesOne(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """As rotary positions are scaled where nothing scales them."""

    def pattern(self, op: Any, x: Any, one: Any) -> Any:
        return op.Mul(x, one)

    def check(self, context: Any, x: ir.Value, one: ir.Value) -> Any:
        result = pattern.MatchResult()
        # A one with axes could give a result that has more of them.
        if not _all(one, 1) or one.shape is None or len(one.shape) > 0:
            return result.fail("it is not one")
        return result

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Identity(x)


def _all(value: ir.Value, number: int) -> bool:
    """Whether it is a constant of nothing else."""
    numbers = numbers_of(value)
    return numbers is not None and bool((numbers == number).all())
