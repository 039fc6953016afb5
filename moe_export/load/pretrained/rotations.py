"""Rotary positions that a source writes in complex numbers, computed in real ones.

Graphs have no complex numbers.  Within ``in_real_numbers`` the few operators of such code make and
take pairs, by the same formulas: a number is its real and its imaginary part on a last axis of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Pairs:
    """Complex numbers ``[...]`` as ``real [..., 2]``, in what code of rotary positions does."""

    def __init__(self, real: Tensor) -> None:
        self.real = real

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.view_as_real:
            return args[0].real
        return NotImplemented

    @property
    def shape(self) -> torch.Size:
        return self.real.shape[:-1]

    @property
    def ndim(self) -> int:
        return self.real.ndim - 1

    @property
    def device(self) -> torch.device:
        return self.real.device

    def to(self, device: torch.device) -> Pairs:
        return Pairs(self.real.to(device))

    def unsqueeze(self, axis: int) -> Pairs:
        return Pairs(self.real.unsqueeze(axis if axis >= 0 else axis - 1))

    def view(self, *shape: int) -> Pairs:
        return Pairs(self.real.view(*shape, 2))

    def __getitem__(self, place: Any) -> Pairs:
        places = place if isinstance(place, tuple) else (place,)
        return Pairs(self.real[(*places, ...)])

    def __mul__(self, other: Pairs | float) -> Pairs:
        if not isinstance(other, Pairs):
            return Pairs(self.real * other)
        (a, b), (c, d) = self.real.unbind(-1), other.real.unbind(-1)
        return Pairs(torch.stack([a * c - b * d, a * d + b * c], dim=-1))


class _InRealNumbers(TorchFunctionMode):
    """Complex numbers that are made become ``Pairs``."""

    _MADE: Mapping[Any, Callable[..., Pairs]] = {
        torch.view_as_complex: Pairs,
        torch.polar: lambda size, angle: Pairs(
            torch.stack([size * angle.cos(), size * angle.sin()], dim=-1)
        ),
    }

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._MADE.get(func, func)(*args, **(kwargs or {}))


def in_real_numbers() -> TorchFunctionMode:
    """A context whose complex numbers are ``Pairs``."""
    return _InRealNumbers()


def keep_real(model: nn.Module) -> None:
    """Let the complex buffers of ``model`` be kept as real numbers, and read as ``Pairs``."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_complex():
                delattr(module, name)
                module.register_buffer(_kept(name), torch.view_as_real(buffer), persistent=False)
                kind: Any = type(module)
                module.__class__ = _reading(kind, name)


def _kept(name: str) -> str:
    return f"{name}_real"


@cache
def _reading(module: type[nn.Module], name: str) -> type[nn.Module]:
    """The same class, whose buffer ``name`` is made of real numbers."""
    buffer = property(lambda self: Pairs(getattr(self, _kept(name))))
    return cast(type[nn.Module], type(module.__name__, (module,), {name: buffer}))
