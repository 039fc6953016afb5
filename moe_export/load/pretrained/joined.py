"""A router and experts that a decoder layer calls apart, joined into one block.

Such a layer routes one set of rows and gives the experts another, as where each has a norm of its
own.  What lies between the two calls stays the layer's; both together are a block like any other,
of rows that hold the router's beside the experts'.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Calls:
    """How many results a router gives, and which of them the experts take behind their rows."""

    results: int
    taken: tuple[int, ...]


class RoutedExperts(nn.Module):
    """``rows [T, 2H]``, the router's and the experts' side by side, to ``[T, H]``."""

    def __init__(self, router: nn.Module, experts: nn.Module, taken: tuple[int, ...]) -> None:
        super().__init__()
        self.router = router
        self.experts = experts
        self._taken = taken

    def forward(self, rows: Tensor) -> Tensor:
        routed, hidden = rows.chunk(2, dim=-1)
        made = self.router(routed)
        mixed: Tensor = self.experts(hidden, *(made[place] for place in self._taken))
        return mixed


def join_apart(model: nn.Module, hidden_size: int) -> None:
    """Give each layer of ``model`` that calls its router and experts apart one block for both.

    The model takes ``inputs_embeds [B, S, hidden_size]`` and computes what it did before.  Layers
    of a class that was joined once are joined without being run.
    """
    layers: list[Any] = [module for module in model.modules() if _calls_apart(module)]
    for layer in layers:
        kind: Any = type(layer)
        if kind not in _KNOWN:
            _KNOWN[kind] = _observed(model, layer, hidden_size)
        layer.moe = RoutedExperts(layer.router, layer.experts, _KNOWN[kind].taken)
        del layer.router, layer.experts
        layer.__class__ = _joined(kind, _KNOWN[kind].results)


_KNOWN: dict[type[nn.Module], _Calls] = {}


def _calls_apart(module: nn.Module) -> bool:
    """Whether it is a decoder layer, not a block, that holds both."""
    children = dict(module.named_children())
    is_layer = "attention_mask" in signature(module.forward).parameters
    return is_layer and {"router", "experts"} <= children.keys()


class _SeenError(Exception):
    """What was to be seen was seen, and the rest of the model need not run."""


def _observed(model: Any, layer: Any, hidden_size: int) -> _Calls:
    made: list[Tensor] = []
    taken: list[int] = []

    def routed(_: nn.Module, __: Any, results: tuple[Tensor, ...]) -> None:
        made.extend(results)

    def mixed(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        taken.extend(next(i for i, x in enumerate(made) if x is given) for given in args[1:])
        raise _SeenError

    handles = [
        layer.router.register_forward_hook(routed),
        layer.experts.register_forward_pre_hook(mixed),
    ]
    try:
        with torch.no_grad(), suppress(_SeenError):
            model(inputs_embeds=torch.zeros(1, 1, hidden_size), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return _Calls(len(made), tuple(taken))


@cache
def _joined(layer: type[nn.Module], results: int) -> type[nn.Module]:
    """The same class, whose two calls end in one of its block."""

    def router(self: Any, rows: Tensor) -> tuple[Tensor, ...]:
        return (rows,) * results

    def experts(self: Any, rows: Tensor, routed: Tensor, *_: Tensor) -> Tensor:
        made: Tensor = self.moe(torch.cat([routed, rows], dim=-1))
        return made

    kind = type(layer.__name__, (layer,), {"router": router, "experts": experts})
    return cast(type[nn.Module], kind)
