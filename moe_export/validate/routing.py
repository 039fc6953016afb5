"""The routing of the bundle beside the eager model's, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.forms import Flip, LayerTensors, RoutingParity
from moe_export.validate.tensors import EAGER_FACTOR, earned, largest, largest_error

Array = npt.NDArray[Any]

_LOGITS_IN_WEIGHTS = 2
"""Relative error of a ``topk_weight`` for each unit by which all logits may be off.

A softmax has the error of its own exponential and of the sum; so has a sigmoid that is normalized.
Of a router that is kept it is taken for granted.
"""


def routing_noise(recorded: LayerTensors) -> float:
    """What rounding may move a layer's margin by: ``EAGER_FACTOR`` times both scores' noise."""
    return 2 * EAGER_FACTOR * float(recorded.noise.max(initial=0.0))


def compare_routing(
    case: str,
    layer: str,
    recorded: LayerTensors,
    topk_ids: Array,
    topk_weights: Array | None = None,
) -> RoutingParity:
    """Share of tokens with the same set of experts, every flip with its margin, and the weights.

    A flip is explained where the eager model's margin is within what rounding may move two scores:
    each by ``EAGER_FACTOR`` times the layer's largest noise.  Any other flip is a defect, and so is
    a ``topk_weight`` of a token without a flip that is beyond its tolerance: that of ``earned``, by
    the largest error of eager's weights or by what its logits' does to a weight, if that is more.
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
    weight_tolerance = _weight_tolerance(recorded)
    weight_error = 0.0
    if topk_weights is not None:
        exact = _by_expert(recorded.topk_weights_reference, recorded.topk_ids)
        made = _by_expert(topk_weights, topk_ids)
        weight_error = largest_error(made[~differs], exact[~differs])
    return RoutingParity(
        case=case,
        layer=layer,
        tokens=tokens,
        agreement=1.0 - len(flips) / tokens if tokens else 1.0,
        flips=flips,
        passed=all(flip.explained for flip in flips) and weight_error <= weight_tolerance,
        weight_error=weight_error,
        weight_tolerance=weight_tolerance,
    )


def is_undecided(recorded: LayerTensors) -> Array:
    """``[T]``: the tokens whose choice of experts rounding may change."""
    return np.asarray(recorded.margin <= routing_noise(recorded))


def logits_parity(recorded: LayerTensors, router_logits: Array) -> tuple[float, float]:
    """The largest error of the bundle's ``router_logits``, and its tolerance."""
    reference = recorded.router_logits_reference
    own = largest_error(recorded.router_logits, reference)
    tolerance = earned(own, largest(reference), float(recorded.router_logits_edge_error))
    return largest_error(router_logits, reference), tolerance


def _weight_tolerance(recorded: LayerTensors) -> float:
    scale = largest(recorded.topk_weights_reference)
    own, of_logits = (
        largest_error(getattr(recorded, role), getattr(recorded, f"{role}_reference"))
        for role in ("topk_weights", "router_logits")
    )
    moved = (float(recorded.topk_weights_edge_error), float(recorded.router_logits_edge_error))
    through = _LOGITS_IN_WEIGHTS * scale
    return earned(max(own, through * of_logits), scale, max(moved[0], through * moved[1]))


def _by_expert(topk_weights: Array, topk_ids: Array) -> Array:
    """The weights of each token in order of expert, whatever the order they were chosen in."""
    return np.take_along_axis(topk_weights, np.argsort(topk_ids, axis=1, kind="stable"), axis=1)
