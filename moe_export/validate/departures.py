"""Where the eager model itself took another expert than was recorded of it.

Its choice is recorded by the router op on the numbers that it routes by.  Between experts that are
nearly equal its own code may decide otherwise; behind that its numbers are those of another
routing, and no yardstick for anything.  The rewritten model ran with the recorded routing and is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.forms import GoldenCase, LayerTensors
from moe_export.validate.routing import is_undecided
from moe_export.validate.tensors import rewritten_allows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Departures:
    """Tensors of one golden case whose eager numbers are of another routing than the recorded."""

    layers: frozenset[str]
    """``<layer>/x`` and ``<layer>/y``."""

    outputs: bool


def departures(case: GoldenCase, layers: Iterable[str]) -> Departures:
    """Looked for in the order of the graph.

    At the first layer it is shown by rows of ``y`` that are further from the reference than a
    rewritten model explains, all of them tokens whose choice was within the noise.  Any other row
    that far off is no departure: then eager and rewritten model compute different things.
    """
    found: set[str] = set()
    has_left = False
    for layer in layers:
        recorded = case.layers[layer]
        if has_left:
            found.add(f"{layer}/x")
        has_left = has_left or _leaves(recorded)
        if has_left:
            found.add(f"{layer}/y")
    return Departures(frozenset(found), has_left)


def _leaves(recorded: LayerTensors) -> bool:
    error = float(recorded.y_rewritten_error)
    if np.isnan(error) or not recorded.y.size:
        return False
    allowed = rewritten_allows(error, recorded.y_reference)
    rows = np.abs(recorded.y - recorded.y_reference).reshape(len(recorded.margin), -1)
    off = (rows > allowed).any(axis=1)
    return bool(off.any()) and bool(is_undecided(recorded)[off].all())
