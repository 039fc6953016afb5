"""Whom the bundle's routers chose, by what tokens are of, and between whom tokens stood."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from moe_export.forms import (
    ANY,
    MODALITIES,
    PADDING,
    Array,
    BlockRecord,
    Conflict,
    ExpertLoad,
    LayerTensors,
    block_name,
)

NEAR_SHARE = 0.1
"""A margin is *small* where it is among this share of its layer's, over all tokens of all cases,
or within what rounding may move it, if that is more.

A stated share and not a size, because scores of different routers are of different sizes; a tenth
leaves some ten tokens for each pair in the golden cases of a model of 8 experts.
"""


class Loads:
    """Counts choices and near choices, case by case, of layers with so many ``experts``."""

    def __init__(self, blocks: tuple[BlockRecord, ...]) -> None:
        self._experts = {
            block.name: block.layer.router.num_experts for block in blocks if block.layer
        }
        self._choices: dict[tuple[str, int], list[Array]] = defaultdict(list)
        self._margins: dict[str, list[Array]] = defaultdict(list)
        self._rivals: dict[str, list[Array]] = defaultdict(list)
        self._noise: dict[str, float] = defaultdict(float)

    def add(self, layer: str, recorded: LayerTensors, topk_ids: Array, noise: float) -> None:
        """One case of a layer: the bundle's ``topk_ids [T, K]``.

        ``noise`` is what rounding may move a margin by.  Tokens that are padding count nowhere.
        """
        tokens = len(topk_ids)
        known = recorded.modality
        codes = known if len(known) == tokens else np.full(tokens, ANY, np.uint8)
        for code in np.unique(codes[codes != PADDING]):
            self._choices[layer, int(code)].append(topk_ids[codes == code])
        if len(recorded.rivals) == tokens == len(recorded.margin):
            real = codes != PADDING
            self._margins[layer].append(recorded.margin[real])
            self._rivals[layer].append(recorded.rivals[real])
        self._noise[layer] = max(self._noise[layer], noise)

    def loads(self) -> tuple[ExpertLoad, ...]:
        """By layer and modality, in the order in which they came."""
        return tuple(
            ExpertLoad(
                layer=layer,
                modality=MODALITIES[code],
                tokens=sum(map(len, chosen)),
                choices=self._histogram(layer, np.concatenate(chosen)),
            )
            for (layer, code), chosen in self._choices.items()
        )

    def _histogram(self, layer: str, topk_ids: Array) -> tuple[int, ...]:
        count = self._experts.get(block_name(layer, self._experts), 0)
        inside = topk_ids[(topk_ids >= 0) & (topk_ids < count)]  # any other is a defect elsewhere
        return tuple(int(n) for n in np.bincount(inside.ravel(), minlength=count))

    def conflicts(self) -> tuple[Conflict, ...]:
        """Pairs with a token whose margin is small, those of most tokens first, by layer."""
        return tuple(
            conflict
            for layer, margins in self._margins.items()
            for conflict in _conflicts(
                layer,
                np.concatenate(margins),
                np.concatenate(self._rivals[layer]),
                self._noise[layer],
            )
        )


def _conflicts(layer: str, margins: Array, rivals: Array, noise: float) -> list[Conflict]:
    """Of one layer, from ``margins [T]`` and ``rivals [T, 2]``."""
    finite = np.isfinite(margins)
    if not finite.any():
        return []
    # The lower of two neighbours: at most the stated share of tokens is below or at it.
    limit = max(float(np.quantile(margins[finite], NEAR_SHARE, method="lower")), noise)
    near = finite & (margins <= limit) & (rivals >= 0).all(axis=1)
    pairs: Mapping[tuple[int, int], list[float]] = defaultdict(list)
    for (chosen, runner_up), margin in zip(rivals[near], margins[near], strict=True):
        pairs[int(chosen), int(runner_up)].append(float(margin))
    made = [
        Conflict(
            layer=layer,
            chosen=chosen,
            runner_up=runner_up,
            tokens=len(found),
            smallest_margin=min(found),
        )
        for (chosen, runner_up), found in pairs.items()
    ]
    return sorted(made, key=lambda each: (-each.tokens, each.chosen, each.runner_up))
