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

_EPS = float(np.finfo(np.float32).eps)


def compare(
    case: str, name: str, kind: str, *, bundle: Array, eager: Array, reference: Array
) -> TensorParity:
    """Errors of ``bundle`` and ``eager`` against ``reference``, and whether the first is earned.

    The tolerance is ``EAGER_FACTOR`` times the eager model's own largest error, or times half a
    unit in the last place of the largest value where eager happened to be exact.  NaN and infinity
    must stand where the reference has them; a shape that differs is an infinite error.
    """
    if bundle.shape != reference.shape:
        return _parity(case, name, kind, reference, error=np.inf, eager_error=0.0, cosine=np.nan)
    exact = reference.astype(np.float64)
    return _parity(
        case,
        name,
        kind,
        reference,
        error=_largest_error(bundle, exact),
        eager_error=_largest_error(eager, exact),
        cosine=_cosine(bundle, exact),
    )


def _parity(
    case: str,
    name: str,
    kind: str,
    reference: Array,
    *,
    error: float,
    eager_error: float,
    cosine: float,
) -> TensorParity:
    scale = _scale(reference)
    tolerance = EAGER_FACTOR * max(eager_error, _EPS / 2 * scale)
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
