"""How evenly the tokens of a report fall on the experts of each MoE layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from moe_export.forms import ExpertLoad


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The load of one MoE layer, over all modalities and cases."""

    layer: str
    tokens: int
    choices: tuple[int, ...]
    """By expert, how many tokens chose it."""

    entropy: float
    """Of the experts' shares, in parts of its largest: 1 where all are chosen alike, 0 where one is
    chosen alone; NaN where nothing was chosen."""

    peak: float
    """Choices of the busiest expert over the mean; NaN where nothing was chosen."""

    dead: tuple[int, ...]
    """Experts that no token chose."""


def balances(loads: Iterable[ExpertLoad]) -> tuple[Balance, ...]:
    """The balance of each layer in order of appearance."""
    by_layer: dict[str, list[ExpertLoad]] = {}
    for load in loads:
        by_layer.setdefault(load.layer, []).append(load)
    return tuple(_balance(layer, of_layer) for layer, of_layer in by_layer.items())


def total(loads: Iterable[ExpertLoad]) -> tuple[int, ...]:
    """By expert, the choices of all the loads together."""
    columns = zip_longest(*(load.choices for load in loads), fillvalue=0)
    return tuple(map(sum, columns))


def relative(choices: Sequence[int]) -> tuple[float, ...]:
    """By expert, its choices over the mean of all experts; zeros where nothing was chosen."""
    whole = sum(choices)
    return tuple(len(choices) * each / whole if whole else 0.0 for each in choices)


def _balance(layer: str, loads: Sequence[ExpertLoad]) -> Balance:
    choices = total(loads)
    whole = sum(choices)
    return Balance(
        layer=layer,
        tokens=sum(load.tokens for load in loads),
        choices=choices,
        entropy=_entropy(choices) if whole else math.nan,
        peak=max(relative(choices)) if whole else math.nan,
        dead=tuple(expert for expert, each in enumerate(choices) if not each),
    )


def _entropy(choices: Sequence[int]) -> float:
    if len(choices) < 2:
        return 1.0
    whole = sum(choices)
    shares = [each / whole for each in choices if each > 0]
    # max: the sum over a single share is -0.0
    return max(0.0, -sum(share * math.log(share) for share in shares) / math.log(len(choices)))
