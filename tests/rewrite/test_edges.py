"""Moved edges: the same rounding as the ops', and every element that noise may round otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moe_export.moe.layer import RowFormat
from moe_export.moe.reference.rows import round_rows as oracle
from moe_export.rewrite.edges import round_rows

SHIFT = 2.0**-17
FORMATS: tuple[RowFormat, ...] = ("f32", "bf16", "int8", "int16")


def rows(seed: int, columns: int = 77) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((40, columns)).astype(np.float32)
    made[3] = 0
    made[4, :40] = 1e-42
    made[5, 6] = np.nan
    made[6, 7] = np.inf
    made[7] *= 1e30
    return made


@pytest.mark.parametrize("row_format", FORMATS)
def test_unmoved_edges_are_those_of_the_ops(row_format: RowFormat) -> None:
    given = rows(0)
    made = round_rows(torch.from_numpy(given), row_format).numpy()
    np.testing.assert_array_equal(made, oracle(given, row_format))


@pytest.mark.parametrize("row_format", ["bf16", "int8", "int16"])
def test_what_less_noise_than_the_shift_rounds_otherwise_one_of_the_two_shifts_does_too(
    row_format: RowFormat,
) -> None:
    """Noise of every size up to half the shift, in every element, against exact rounding."""
    random = np.random.default_rng(1)
    fell = 0
    for seed in range(30):
        given = rows(seed)[8:]
        exact = oracle(given.astype(np.float64), row_format)
        largest = np.abs(given).max(axis=1, keepdims=True)
        noise = random.uniform(-SHIFT / 8, SHIFT / 8, given.shape) * largest
        noisy = oracle((given + noise).astype(np.float32), row_format)
        up, down = (
            round_rows(torch.from_numpy(given), row_format, shift).numpy()
            for shift in (SHIFT, -SHIFT)
        )
        # More than a rounding of float32 apart is a fall to another value.
        hair = 2 * SHIFT * largest
        falls = np.abs(noisy - exact) > hair
        covered = (np.abs(up - exact) > hair) | (np.abs(down - exact) > hair)
        assert not (falls & ~covered).any()
        fell += int(falls.sum())
    assert fell > 0


def test_a_shift_reaches_nothing_that_is_not_finite() -> None:
    given = rows(2)
    for row_format in ("bf16", "int8", "int16"):
        made = round_rows(torch.from_numpy(given), row_format, SHIFT).numpy()
        kept = np.isfinite(oracle(given, row_format))
        np.testing.assert_array_equal(np.isfinite(made), kept)
