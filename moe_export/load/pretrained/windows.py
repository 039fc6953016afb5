"""Windows over rows as copies beside one another, where a source takes overlapping views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class WindowsCopied(TorchFunctionMode):
    """``x.unfold(dim, size, 1)`` as ``size`` copies, each one place further, in a last axis.

    Of a view whose rows overlap PyTorch asks, for the order of its results in memory, whether there
    are fewer rows than a window has, and a graph of one token would be another.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.unfold and not kwargs and args[3] == 1:
            return _stacked(*args[:3])
        return func(*args, **(kwargs or {}))


def _stacked(x: Tensor, dim: int, size: int) -> Tensor:
    count = x.shape[dim] - size + 1
    return torch.stack([x.narrow(dim, place, count) for place in range(size)], dim=-1)
