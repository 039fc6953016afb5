"""A matrix in a precision as an eager model has it: stored numbers, and rows rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from moe_export.errors import UnsupportedError
from moe_export.forms import Edges
from moe_export.lazy import LazyTensor
from moe_export.moe.quantize import Precision
from moe_export.ondisk import Spool
from moe_export.rewrite.edges import round_rows
from moe_export.rewrite.torch_linear import StoredMatrix

_PARTS = ("values", "scales", "zeros")


def rounded_matrix(
    name: str, weight: Tensor, precision: Precision, spool: Spool, edges: Edges
) -> Tensor:
    """``weight [N, H]`` in a precision: a product with it is what ``Linear`` computes.

    Raises ``UnsupportedError`` where the precision cannot hold it.
    """
    try:
        parts = spool.quantized(name, weight.detach(), precision)
    except ValueError as error:
        raise UnsupportedError(
            f"precision {precision} cannot store a matrix: {error}",
            where=name,
            hint="choose another --dense-precision; bf16 has the range of float32",
        ) from error
    readers = (cast(LazyTensor, parts[part]).reader if part in parts else None for part in _PARTS)
    values, scales, zeros = readers
    if values is None:
        raise AssertionError(f"{name!r} was stored without numbers")
    block_size = precision.block_size
    # Float32 holds what a matrix stands for; float64 twins take the same numbers.
    return LazyTensor(_Rounded(values, scales, zeros, block_size, torch.float32, precision, edges))


@dataclass(frozen=True)
class _Rounded(StoredMatrix):
    """The same, and what it makes of rows that meet it."""

    precision: Precision
    edges: Edges

    def meet(self, rows: Tensor) -> Tensor:
        """What is multiplied in place of ``rows [.., H]``."""
        return round_rows(rows, self.precision.row_format, self.edges.shift)
