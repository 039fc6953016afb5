"""One tensor of the bundle beside the eager model's, both measured against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.forms import TensorParity

Array = npt.NDArray[Any]

EAGER_FACTOR = 8.0
"""How many times as wrong as eager a bundle may be.

Two float32 programs that sum the same n terms in another order have independent rounding errors of
one size; the largest of N such errors is about sqrt(2 ln N) of their deviation, 3 to 5 for N from
100 to 10^6.  Eight leaves a factor of two above the largest error of a program that is exactly as
good as eager.
"""

EDGE_FACTOR = 4.0
"""How many times as wrong a bundle may be as eager is with its rounding edges moved.

Its rows fall where those of one or the other moved run fall, so that its error is at most the
sum of theirs, twice the larger, where falls do not lead to further ones; the rest is a factor of
two, as in ``EAGER_FACTOR``.  Measured: eager with noise of 8 float32 roundings in every row, 900
runs of two models in int8, int4 and bf16, came to 1.6 times at most where falls were what differed.
"""

REWRITTEN_FACTOR = EAGER_FACTOR**2
"""How many times as wrong as the other the eager and the rewritten model may be.

Both are held against one float64 reference, and each may be ``EAGER_FACTOR`` times as wrong as a
program of that kind usually is.  Further apart they compute different things: then it is not
rounding that the eager model's error measures, and a tolerance made of it would let anything pass.
"""

_EPS = float(np.finfo(np.float32).eps)


def compare(
    case: str,
    name: str,
    kind: str,
    *,
    bundle: Array,
    eager: Array,
    reference: Array,
    edge_error: float,
    rewritten_error: float | None = None,
    replayed: Array | None = None,
    has_left: bool = False,
) -> TensorParity:
    """Errors of ``bundle`` and ``eager`` against ``reference``, and whether the first is earned.

    The tolerance is ``EAGER_FACTOR`` times the eager model's own largest error, or times half a
    unit in the last place of the largest value where eager happened to be exact; or
    ``EDGE_FACTOR`` times ``edge_error``, if that is more.  NaN and infinity must stand where the
    reference has them; a shape that differs is an infinite error.

    ``rewritten_error`` is that of the rewritten model, where it is known: neither of the two models
    may be more than ``REWRITTEN_FACTOR`` times as wrong as the other, or as half a unit in the last
    place of the largest value.  ``replayed`` is what the bundle makes of the eager model's routing,
    and is held to the same.  Where ``has_left``, the eager model's numbers are of another routing
    than the recorded one (``departures``): the rewritten model's error is the yardstick instead.
    """
    scale = largest(reference)
    error, eager_error = (largest_error(made, reference) for made in (bundle, eager))
    cosine = _cosine(bundle, reference) if bundle.shape == reference.shape else float("nan")
    recorded = None if rewritten_error is None or np.isnan(rewritten_error) else rewritten_error
    yardstick = recorded if has_left and recorded is not None else eager_error
    tolerance = earned(yardstick, scale, edge_error)
    replayed_error = None if replayed is None else largest_error(replayed, reference)
    is_within = max(error, replayed_error or 0.0) <= tolerance
    return TensorParity(
        case=case,
        name=name,
        kind=kind,
        elements=reference.size,
        max_error=error,
        relative_error=error / scale if scale else error,
        cosine=cosine,
        eager_error=eager_error,
        tolerance=tolerance,
        passed=is_within and (has_left or _are_alike(eager_error, recorded, scale)),
        edge_error=edge_error,
        rewritten_error=recorded,
        replayed_error=replayed_error,
    )


def earned(eager_error: float, scale: float, edge_error: float) -> float:
    """The tolerance of numbers whose largest is ``scale``, as ``compare`` has it."""
    own = EAGER_FACTOR * max(eager_error, _EPS / 2 * scale)
    return max(own, EDGE_FACTOR * edge_error)


def is_beyond(tensor: TensorParity) -> bool:
    """Whether the bundle's own error is more than the tolerance."""
    return max(tensor.max_error, tensor.replayed_error or 0.0) > tensor.tolerance


def is_rewritten_otherwise(tensor: TensorParity) -> bool:
    """Whether a tensor fails since eager and rewritten model compute different things."""
    return not tensor.passed and not is_beyond(tensor)


def _are_alike(eager_error: float, rewritten_error: float | None, scale: float) -> bool:
    if rewritten_error is None:
        return True
    less, more = sorted((eager_error, rewritten_error))
    return more <= REWRITTEN_FACTOR * max(less, _EPS / 2 * scale)


def rewritten_allows(rewritten_error: float, reference: Array) -> float:
    """How wrong the eager model may be where the rewritten one is off by ``rewritten_error``."""
    return REWRITTEN_FACTOR * max(rewritten_error, _EPS / 2 * largest(reference))


def largest_error(made: Array, reference: Array) -> float:
    """The largest difference from ``reference``; infinite where shape, NaN or infinity differ."""
    if made.shape != reference.shape:
        return float("inf")
    if not reference.size:
        return 0.0
    given, exact = made.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(given[~finite], exact[~finite], equal_nan=True):
        return float("inf")
    difference = np.abs(given[finite] - exact[finite])
    if np.isnan(difference).any():
        return float("inf")
    return float(difference.max(initial=0.0))


def largest(reference: Array) -> float:
    """The largest absolute value that is finite; 0 where there is none."""
    finite = np.abs(reference[np.isfinite(reference)])
    return float(finite.max(initial=0.0))


def _cosine(made: Array, exact: Array) -> float:
    """Cosine of the angle between the two as vectors; 1 where both are zero."""
    a, b = made.astype(np.float64).ravel(), exact.astype(np.float64).ravel()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 1.0
