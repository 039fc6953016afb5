"""How near each token is to another choice of experts.

What a ``Router`` op says has a margin by definition.  Of a router that is kept nobody knows what it
compares, so a margin is *found*: one logit is moved until the choice changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moe_export.forms import MoELayer

Array = npt.NDArray[Any]

_STEPS = 12
"""Sizes that are tried, each four times the one before: from 2e-7 of the spread of a token's
logits, which is float32's rounding of them, to all of it."""

_HALVINGS = 12
"""Between a size that changes the choice and one that does not: a part in four thousand."""

_MOST_NUMBERS = 1 << 24
"""Logits that are tried at a time: 64 MiB of float32."""


def found_margins(layer: MoELayer, rows: Tensor, logits: Tensor) -> tuple[Array, Array]:
    """``margin [T]`` and ``rivals [T, 2]`` of a layer whose router is kept.

    The margin is the least move of one logit that was found to change the set of experts: a chosen
    one's down, or another's up.  The true one may be less, by a move that was not tried: several
    logits at once, or one by less.  ``+inf`` and rivals of -1 where none changed it.
    """
    tokens, experts = logits.shape
    margin = np.full(tokens, np.inf)
    pairs = np.full((tokens, 2), -1, np.int32)
    step = max(1, _MOST_NUMBERS // max(1, experts * experts))
    with torch.no_grad():
        for start in range(0, tokens, step):
            part = slice(start, start + step)
            search = _Search(layer, rows[part], logits[part])
            margin[part], pairs[part] = search.run()
    return margin, pairs


class _Search:
    """Of some tokens, all moves of one logit."""

    def __init__(self, layer: MoELayer, rows: Tensor, logits: Tensor) -> None:
        self._layer, self._rows, self._logits = layer, rows, logits
        self._own = self._chosen(torch.arange(len(rows)), logits)

    def run(self) -> tuple[Array, Array]:
        tokens, experts = self._logits.shape
        margin = torch.full((tokens,), torch.inf, dtype=torch.float64)
        pairs = torch.full((tokens, 2), -1, dtype=torch.int32)
        finite = self._logits.nan_to_num(0.0, 0.0, 0.0)
        spread = (finite.amax(1) - finite.amin(1)).double().clamp(min=1e-30)
        open_tokens = torch.arange(tokens)
        for number in range(_STEPS):
            if not len(open_tokens):
                break
            token = open_tokens.repeat_interleave(experts)
            expert = torch.arange(experts).repeat(len(open_tokens))
            size = spread[token] * 4.0 ** (number + 1 - _STEPS)
            changed = self._changes(token, expert, size)
            if changed.any():
                token, expert, size = token[changed], expert[changed], size[changed]
                least = self._halved(token, expert, size, of_none=number == 0)
                order = least.argsort(descending=True)  # so that the least is written last
                token, expert, least = token[order], expert[order], least[order]
                margin[token] = least
                pairs[token] = self._exchanged(token, expert, least)
            open_tokens = open_tokens[margin[open_tokens].isinf()]
        return margin.numpy(), pairs.numpy()

    def _halved(self, token: Tensor, expert: Tensor, size: Tensor, *, of_none: bool) -> Tensor:
        """Sizes that change the choice still, and less of them does not."""
        low = torch.zeros_like(size) if of_none else size / 4
        for _ in range(_HALVINGS):
            middle = (low + size) / 2
            changed = self._changes(token, expert, middle)
            size, low = torch.where(changed, middle, size), torch.where(changed, low, middle)
        return size

    def _changes(self, token: Tensor, expert: Tensor, size: Tensor) -> Tensor:
        return (self._moved(token, expert, size) != self._own[token]).any(1)

    def _moved(self, token: Tensor, expert: Tensor, size: Tensor) -> Tensor:
        """``[N, E]``: whom a token chooses once a logit of one expert is moved."""
        logits = self._logits[token].clone()
        place = torch.arange(len(token))
        sign = 1.0 - 2.0 * self._own[token, expert].double()
        logits[place, expert] += (sign * size).to(logits.dtype)
        return self._chosen(token, logits)

    def _chosen(self, token: Tensor, logits: Tensor) -> Tensor:
        """``[N, E]``: whether a token with these logits chooses an expert."""
        if self._layer.kept is None:
            raise ValueError("the layer's router is an op, which has a margin of its own")
        _, ids = self._layer.kept(self._rows[token], logits)
        return torch.zeros(logits.shape, dtype=torch.bool).scatter(1, ids.long(), value=True)

    def _exchanged(self, token: Tensor, expert: Tensor, size: Tensor) -> Tensor:
        """The expert that a move shuts out and the one that comes in, -1 where there is none."""
        own, moved = self._own[token], self._moved(token, expert, size)
        gone, come = own & ~moved, moved & ~own
        first = torch.stack([gone.int().argmax(1), come.int().argmax(1)], dim=1)
        there = torch.stack([gone.any(1), come.any(1)], dim=1)
        return torch.where(there, first, -1).int()
