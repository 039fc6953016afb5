"""The routing of the bundle beside the eager model's, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.forms import Flip, LayerTensors, RoutingParity
from moe_export.validate.tensors import EAGER_FACTOR

Array = npt.NDArray[Any]


def routing_noise(recorded: LayerTensors) -> float:
    """What rounding may move a layer's margin by: ``EAGER_FACTOR`` times both scores' noise."""
    return 2 * EAGER_FACTOR * float(recorded.noise.max(initial=0.0))


def compare_routing(
    case: str, layer: str, recorded: LayerTensors, topk_ids: Array
) -> RoutingParity:
    """Share of tokens with the same set of experts, and every flip with its margin.

    A flip is explained where the eager model's margin is within what rounding may move two scores:
    each by ``EAGER_FACTOR`` times the layer's largest noise.  Any other flip is a defect.
    """
    tokens = len(recorded.topk_ids)
    if topk_ids.shape != recorded.topk_ids.shape:
        return RoutingParity(
            case=case, layer=layer, tokens=tokens, agreement=0.0, flips=(), passed=False
        )
    noise = routing_noise(recorded)
    differs = (np.sort(recorded.topk_ids, axis=1) != np.sort(topk_ids, axis=1)).any(axis=1)
    flips = tuple(
        Flip(
            token=int(token),
            eager=tuple(int(expert) for expert in recorded.topk_ids[token]),
            bundle=tuple(int(expert) for expert in topk_ids[token]),
            margin=float(recorded.margin[token]),
            noise=noise,
            explained=bool(recorded.margin[token] <= noise),
        )
        for token in np.flatnonzero(differs)
    )
    return RoutingParity(
        case=case,
        layer=layer,
        tokens=tokens,
        agreement=1.0 - len(flips) / tokens if tokens else 1.0,
        flips=flips,
        passed=all(flip.explained for flip in flips),
    )
