"""A matrix in a precision as an eager model has it: stored numbers, and rows rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_export.errors import UnsupportedError
from moe_export.forms import Edges
from moe_export.lazy import LazyTensor
from moe_export.moe.quantize import Precision
from moe_export.ondisk import Spool
from moe_export.rewrite.edges import round_rows
from moe_export.rewrite.torch_linear import stored_matrix


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
    return LazyTensor(_Rounded(parts, precision, edges))


@dataclass(frozen=True, eq=False)
class _Rounded:
    """The reader of the numbers that a stored matrix stands for.  Float32 holds them exactly."""

    parts: Mapping[str, Tensor]
    precision: Precision
    edges: Edges

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parts["values"].shape)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def rows(self, start: int, stop: int) -> Tensor:
        part = {name: tensor[start:stop] for name, tensor in self.parts.items()}
        scales, zeros = part.get("scales"), part.get("zeros")
        block_size = self.precision.block_size
        return stored_matrix(part["values"], scales, zeros, block_size, torch.float32)

    def meet(self, rows: Tensor) -> Tensor:
        """What is multiplied in place of ``rows [.., H]``."""
        return round_rows(rows, self.precision.row_format, self.edges.shift)
