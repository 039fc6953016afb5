"""The look-alikes that no ops say, and a word that the reason must hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from . import (
    capacity_drop,
    expert_choice,
    magnitude_choice,
    noisy_router,
    plain_stack,
    shifted_ids,
    smoothed_weights,
    squared_weights,
    uneven_experts,
)
from .case import ZooCase, built


def _look_alike(
    name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], because: str
) -> ZooCase:
    return ZooCase(name, partial(built, make, name, 1.5), shape, None, None, False, because)


_UNPROVEN = r"(?i)prov|differ|agree|match|equal|express|explain|reproduc|\bfits?\b"

LOOK_ALIKES: tuple[ZooCase, ...] = (
    _look_alike(
        "smoothed_weights",
        partial(smoothed_weights.SmoothedMoE, 16, 12, 6, 2),
        (2, 7, 16),
        _UNPROVEN,
    ),
    _look_alike(
        "noisy_router",
        partial(noisy_router.NoisyMoE, 16, 6, 2),
        (2, 7, 16),
        r"(?i)nois|random|determin",
    ),
    _look_alike(
        "uneven_experts",
        partial(uneven_experts.HeterogeneousMoE, 16, (8, 12, 16, 24), 2),
        (2, 7, 16),
        r"(?i)shape|size|width",
    ),
    _look_alike(
        "capacity_drop",
        partial(capacity_drop.CapacityMoE, 16, 12, 4),
        (2, 7, 16),
        r"(?i)capacity|other tokens|batch|drop",
    ),
    _look_alike(
        "expert_choice",
        partial(expert_choice.ExpertChoiceMoE, 16, 12, 4),
        (2, 7, 16),
        r"(?i)other tokens|batch|token",
    ),
    _look_alike(
        "magnitude_choice",
        partial(magnitude_choice.CosineMagnitudeMoE, 16, 12, 6, 2),
        (2, 7, 16),
        _UNPROVEN,
    ),
    _look_alike(
        "squared_weights",
        partial(squared_weights.SharpenedMoE, 16, 12, 6, 2),
        (2, 7, 16),
        _UNPROVEN,
    ),
    _look_alike(
        "shifted_ids", partial(shifted_ids.OffByOneMoE, 16, 12, 5, 2), (2, 7, 16), _UNPROVEN
    ),
    _look_alike("plain_stack", partial(plain_stack.PlainStack, 16, 12, 4), (2, 7, 16), r".*"),
)

ROUTERS_OF_THEIR_OWN = frozenset(
    ("smoothed_weights", "magnitude_choice", "squared_weights", "shifted_ids")
)
"""Those whose experts the ops say, and whose router alone has to stay as it is."""
