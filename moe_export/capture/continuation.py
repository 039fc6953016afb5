"""What the eager model says behind prompts, token by token, each the likeliest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice

import numpy as np

from moe_export.capture.eager import DECODER, EagerParts
from moe_export.capture.watch import side_by_side
from moe_export.forms import Array, Asked, Continuation

STEPS = 8
"""Tokens that are said behind each prompt.

Each reads what the model multiplies with once more: the first of them beside the golden runs' five
passes over a checkpoint, and of the experts those that are chosen.
"""

_SHOWN = 5


def continuations(
    parts: EagerParts, asked: Mapping[str, Asked], steps: int = STEPS
) -> tuple[Continuation, ...]:
    """``steps`` tokens behind each prompt, beside each other where weights are in files."""
    runs = [partial(_continued, parts, name, each, steps) for name, each in asked.items()]
    return tuple(side_by_side(parts.parts[DECODER].loaded.module, runs))


def _continued(parts: EagerParts, name: str, asked: Asked, steps: int) -> Continuation:
    made = list(islice(parts.steps(parts.inputs(asked)[DECODER]), steps))
    ranked = [_ranked(step.logits) for step in made]
    return Continuation(
        name=name,
        asked=asked,
        likeliest=np.stack([ids for ids, _ in ranked]),
        log_probabilities=np.stack([values for _, values in ranked]),
        margins={
            layer: np.array([step.margins[layer] for step in made]) for layer in made[0].margins
        },
    )


def _ranked(logits: Array) -> tuple[Array, Array]:
    """The likeliest tokens, the lower id first where two are equal, and their log-probabilities."""
    exact = logits.astype(np.float64)
    order = np.argsort(-exact, kind="stable")[:_SHOWN]
    exact = exact - exact.max()
    values = exact - np.log(np.exp(exact).sum())
    return order.astype(np.int64), values[order]
