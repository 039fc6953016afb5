"""The best of each row as PyTorch op, where of equal numbers the first comes first.

ONNX's ``TopK`` says so, ``torch.topk`` leaves it open: experts that a router has ruled out tie at
weight 0, and two libraries that chose among them by accident would differ for no reason.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_export.moe.schema import DOMAIN


@torch.library.custom_op(f"{DOMAIN}::topk", mutates_args=())
def topk(x: Tensor, k: int, dim: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The ``k`` largest or smallest along an axis in order, and their places, int64.

    In a graph it is ONNX's ``TopK``; it is not in the op set.
    """
    values, places = x.sort(dim=dim, descending=largest, stable=True)
    return values.narrow(dim, 0, k).clone(), places.narrow(dim, 0, k).clone()


@topk.register_fake
def _(x: Tensor, k: int, dim: int, largest: bool) -> tuple[Tensor, Tensor]:
    shape = list(x.shape)
    shape[dim] = k
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)
