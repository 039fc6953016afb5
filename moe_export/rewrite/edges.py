"""Rows rounded with the edges moved: what an op does with ``row_format``, and how it might fall.

A number next to an edge is rounded up by one correct implementation and down by another, whose
sums ran in another order.  Rounding with all edges moved by a hair shows what that costs.
"""

from __future__ import annotations

from torch import Tensor

from moe_export.moe.layer import ROW_STEPS, RowFormat
from moe_export.rewrite.torch_linear import in_steps


def round_rows(rows: Tensor, row_format: RowFormat, shift: float = 0.0) -> Tensor:
    """``rows [S, H]`` in float32, rounded as ``docs/ops.md`` says of ``row_format``.

    Every number is first moved up by ``shift`` times the largest of what it is rounded together
    with: its row for ``bf16``, its block for ``int8`` and ``int16``.  The scale stays where it was.
    """
    if row_format == "f32":
        return rows
    if row_format == "bf16":
        moved: Tensor = rows + shift * _largest(rows)
        return moved.bfloat16().to(rows.dtype)
    return in_steps(rows, ROW_STEPS[row_format], shift)


def _largest(rows: Tensor) -> Tensor:
    """The largest finite absolute value of each row."""
    return rows.abs().nan_to_num(nan=0.0, posinf=0.0).amax(-1, keepdim=True)
