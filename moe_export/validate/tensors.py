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
) -> TensorParity:
    """Errors of ``bundle`` and ``eager`` against ``reference``, and whether the first is earned.

    The tolerance is ``EAGER_FACTOR`` times the eager model's own largest error, or times half a
    unit in the last place of the largest value where eager happened to be exact; or
    ``EDGE_FACTOR`` times ``edge_error``, if that is more.  NaN and infinity must stand where the
    reference has them; a shape that differs is an infinite error.
    """
    if bundle.shape != reference.shape:
        error, eager_error, cosine = float("inf"), 0.0, float("nan")
    else:
        exact = reference.astype(np.float64)
        error, eager_error = (_largest_error(made, exact) for made in (bundle, eager))
        cosine = _cosine(bundle, exact)
    scale = _scale(reference)
    own = EAGER_FACTOR * max(eager_error, _EPS / 2 * scale)
    tolerance = max(own, EDGE_FACTOR * edge_error)
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
        passed=error <= tolerance,
        edge_error=edge_error,
    )


def _largest_error(made: Array, exact: Array) -> float:
    if not exact.size:
        return 0.0
    given = made.astype(np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(given[~finite], exact[~finite], equal_nan=True):
        return float("inf")
    difference = np.abs(given[finite] - exact[finite])
    if np.isnan(difference).any():
        return float("inf")
    return float(difference.max(initial=0.0))


def _scale(reference: Array) -> float:
    finite = np.abs(reference[np.isfinite(reference)])
    return float(finite.max(initial=0.0))


def _cosine(made: Array, exact: Array) -> float:
    """Cosine of the angle between the two as vectors; 1 where both are zero."""
    a, b = made.astype(np.float64).ravel(), exact.ravel()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 1.0
