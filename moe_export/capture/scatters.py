"""``slice_scatter`` and ``select_scatter`` as a choice between two tensors, place by place.

The exporter turns the tensor round, scatters rows by indices that it makes at run time, and turns
it back: some ten nodes for each, in every run.  Where the places are known beforehand a mask says
them all.  The positions of Qwen-VL's text (mRoPE, interleaved) are made of four such updates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.core import aten_select_scatter, aten_slice_scatter
from onnxscript.rewriter import RewriteRuleSet, pattern

from moe_export.capture.constants import numbers_of

# Places up to so many: constants of that size are folded, and no more of them is copied to a graph.
_MOST_PLACES = 512


def slice_scatter(
    x: Any, update: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Any:
    """``x`` with ``update`` in its slice along ``dim``."""
    size = _size(x, dim)
    if size is None or not all(isinstance(n, int | None) for n in (start, end, step)):
        return aten_slice_scatter(x, update, dim, start, end, step)
    chosen = np.zeros(size, bool)
    chosen[start:end:step] = True
    of_update = np.maximum(np.cumsum(chosen) - 1, 0)
    if not chosen.any():
        return opset18.Identity(x)
    spread = opset18.Gather(update, _constant(of_update), axis=dim)
    return opset18.Where(_mask(chosen, x, dim), spread, x)


def select_scatter(x: Any, update: Any, dim: int, index: int) -> Any:
    """``x`` with ``update`` at ``index`` of ``dim``."""
    size = _size(x, dim)
    if size is None:
        return aten_select_scatter(x, update, dim, index)
    chosen = np.arange(size) == index % size
    return opset18.Where(_mask(chosen, x, dim), opset18.Unsqueeze(update, [dim]), x)


def simplify_choices(graph: ir.Model) -> None:
    """Read what was chosen where it comes from; *ensures* that all values stay what they are."""
    RewriteRuleSet([_Spread.rule(), _Selected.rule()]).apply_to_model(graph)


class _Spread(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """A slice of ``x`` that is put where it was taken: ``x`` itself is there."""

    def __init__(self) -> None:
        super().__init__("spread", remove_nodes=False)

    def pattern(
        self, op: Any, x: Any, y: Any, chosen: Any, of: Any, first: Any, axes: Any, steps: Any
    ) -> Any:
        taken = op.Slice(x, first, pattern.ANY_VALUE, axes, steps)
        spread = op.Gather(taken, of, _outputs=["spread"])
        return op.Where(chosen, spread, y)

    def check(
        self,
        context: Any,
        x: ir.Value,
        y: ir.Value,
        chosen: ir.Value,
        of: ir.Value,
        first: ir.Value,
        axes: ir.Value,
        steps: ir.Value,
        spread: ir.Value,
    ) -> Any:
        result = pattern.MatchResult()
        if not (_alike(x, y) and _is_along(_axis(spread, x), x, chosen, axes)):
            return result.fail("it is not known to be along one axis")
        mask, taken, start, step = (numbers_of(each) for each in (chosen, of, first, steps))
        if mask is None or taken is None or start is None or step is None:
            return result.fail("places are not known")
        places = np.flatnonzero(mask)
        if not np.array_equal(start.item() % mask.size + taken[places] * step.item(), places):
            return result.fail("it is put elsewhere")
        return result

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, chosen: ir.Value, **_: Any) -> Any:
        return op.Where(chosen, x, y)


class _Selected(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """What is read at an index of which it is known whether it was put there."""

    def __init__(self) -> None:
        super().__init__("selected", remove_nodes=False)  # several places are read

    def pattern(self, op: Any, x: Any, update: Any, chosen: Any, axes: Any, index: Any) -> Any:
        whole = op.Where(chosen, op.Unsqueeze(update, axes), x, _outputs=["whole"])
        return op.Gather(whole, index, _outputs=["read"])

    def check(
        self,
        context: Any,
        x: ir.Value,
        update: ir.Value,
        chosen: ir.Value,
        axes: ir.Value,
        index: ir.Value,
        whole: ir.Value,
        read: ir.Value,
    ) -> Any:
        result = pattern.MatchResult()
        if not (_alike(x, whole) and _is_along(_axis(read, x), x, chosen, axes)):
            return result.fail("it is not known to be along one axis")
        place = numbers_of(index)
        if place is None or place.ndim or not _alike(update, read):
            return result.fail("it is not known to be one place")
        return result

    def rewrite(
        self,
        op: Any,
        x: ir.Value,
        update: ir.Value,
        chosen: ir.Value,
        index: ir.Value,
        read: ir.Value,
        **_: Any,
    ) -> Any:
        if numbers_of(chosen).reshape(-1)[numbers_of(index).item()]:
            return op.Identity(update)
        return op.Gather(x, index, axis=_axis(read, x))


def _size(x: Any, dim: int) -> int | None:
    """Of an axis, where there are few enough places."""
    size = None if x.shape is None else x.shape[dim]
    return size if isinstance(size, int) and 0 < size <= _MOST_PLACES else None


def _mask(chosen: Any, x: Any, dim: int) -> Any:
    """``chosen`` along ``dim`` of ``x``, alike for all of its other axes."""
    behind = len(x.shape) - 1 - dim % len(x.shape)
    return _constant(chosen.reshape(-1, *[1] * behind))


def _constant(array: Any) -> Any:
    return opset18.Constant(value=ir.tensor(array))


def _alike(x: ir.Value, y: ir.Value) -> bool:
    """Whether both are known to have one shape."""
    return x.shape is not None and x.shape == y.shape


def _axis(gathered: ir.Value, x: ir.Value) -> int:
    """Along which a Gather reads ``x``, or a part of it; 0 where nobody knows what ``x`` is."""
    node = gathered.producer()
    axis = None if node is None else node.attributes.get("axis")
    return 0 if axis is None or x.shape is None else axis.as_int() % len(x.shape)


def _is_along(dim: int, x: ir.Value, chosen: ir.Value, axes: ir.Value) -> bool:
    """Whether a mask says places of ``dim`` of ``x``, which is the only one of ``axes``."""
    mask, named = numbers_of(chosen), numbers_of(axes)
    if x.shape is None or mask is None or named is None:
        return False
    rank = len(x.shape)
    alone = named.size == 1 and named.item() % rank == dim
    return bool(alone and mask.shape == (x.shape[dim], *[1] * (rank - 1 - dim)))
