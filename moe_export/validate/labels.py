"""Experts under other numbers: a router and its experts relabelled alike are the same layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.forms import LayerTensors
from moe_export.validate.routing import logits_parity

Array = npt.NDArray[Any]


def labels_of(recorded: LayerTensors, router_logits: Array) -> Array | None:
    """By the eager model's number of an expert ``[E]``, that of the bundle; ``None``: the same.

    Experts are known by their ``router_logits [T, E]``.  They are renumbered where the logits agree
    with the eager model's in another order of columns and not in their own, one column for each.
    """
    error, tolerance = logits_parity(recorded, router_logits)
    reference = recorded.router_logits_reference
    if error <= tolerance or router_logits.shape != reference.shape:
        return None
    off = np.abs(reference[:, :, np.newaxis] - router_logits[:, np.newaxis, :]).max(axis=0)
    labels = off.argmin(axis=1)
    is_exchange = len(np.unique(labels)) == len(labels)
    nearest = np.take_along_axis(off, labels[:, np.newaxis], axis=1)
    return labels if is_exchange and bool((nearest <= tolerance).all()) else None
