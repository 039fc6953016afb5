"""Integers that make no sense reach no memory that is not theirs."""

from __future__ import annotations

import numpy as np
import pytest

from moe_export.moe import reference

from .ptx_kernels import Device, device

__all__ = ["device"]  # a fixture

INT32 = np.iinfo(np.int32)
ROWS, COLUMNS, FEATURES = 37, 48, 32


def inputs(offsets: list[int]) -> dict[str, np.ndarray]:
    rng, experts = np.random.default_rng(6), len(offsets) - 1
    return {
        "x_sorted": rng.normal(size=(ROWS, COLUMNS)).astype(np.float32),
        "expert_offsets": np.array(offsets, np.int32),
        "weights": (rng.normal(size=(experts, FEATURES, COLUMNS)) / 7).astype(np.float32),
    }


OFFSETS = {
    "too-large": [0, 9, 40, 50, 60, 70],
    "negative": [-9, -1, 3, 3, 20, 37],
    "extreme": [INT32.min, -1, 0, 7, INT32.max, INT32.max],
    "rows-of-nobody": [4, 9, 9, 12, 20, 30],
}


def require_clipped(given: dict[str, np.ndarray], found: np.ndarray) -> None:
    """Offsets are clipped into [0, S] and never run backwards; rows outside the raw ones are 0."""
    offsets = given["expert_offsets"]
    clipped = np.maximum.accumulate(np.clip(offsets, 0, ROWS)).astype(np.int32)
    wide = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in given.items()}
    true = reference.grouped_matmul(**{**wide, "expert_offsets": clipped})
    row = np.arange(ROWS)
    true[(row < offsets[0]) | (row >= offsets[-1])] = 0
    np.testing.assert_allclose(found, true, atol=1e-4)
    assert (found[(true == 0).all(axis=1)] == 0).all()


@pytest.mark.parametrize("name", OFFSETS)
def test_offsets_are_clipped(name: str, device: Device) -> None:
    given = inputs(OFFSETS[name])
    require_clipped(given, device.launcher.grouped_matmul(given, 0, "f32"))


@pytest.mark.parametrize("experts", [5, 70, 400])
@pytest.mark.parametrize("seed", range(4))
def test_offsets_that_run_backwards_are_clipped(seed: int, experts: int, device: Device) -> None:
    rng = np.random.default_rng(seed)
    given = inputs([*np.sort(rng.integers(-10, 50, size=experts)), ROWS])
    swapped = rng.integers(0, experts, size=(2, experts // 2))
    given["expert_offsets"][swapped[0]] = given["expert_offsets"][swapped[1]]
    require_clipped(given, device.launcher.grouped_matmul(given, 0, "f32"))


def test_an_order_that_leads_outside_is_left_out(device: Device) -> None:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(12, 20)).astype(np.float32)
    order = rng.permutation(12).astype(np.int32)
    weights = rng.uniform(size=(6, 2)).astype(np.float32)
    order[[2, 5, 9]] = [-1, INT32.max, 12]
    found = device.launcher.combine(rows, order, weights)
    by_assignment = np.zeros((12, 20))
    for row, place in enumerate(order):
        if 0 <= place < 12:
            by_assignment[place] = rows[row]
    true = (by_assignment.reshape(6, 2, 20) * weights[..., None].astype(np.float64)).sum(1)
    np.testing.assert_allclose(found, true, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["Dispatch", "GroupedMatMul", "Combine"])
def test_nothing_to_do_is_done(name: str, device: Device) -> None:
    none = np.zeros((0, 2), np.int32)
    weights = np.zeros((0, 2), np.float32)
    if name == "Dispatch":
        order, offsets = device.launcher.dispatch(none, 4)
        assert order.shape == (0,)
        assert offsets.tolist() == [0] * 5
    elif name == "Combine":
        rows = np.zeros((0, 9), np.float32)
        order = np.zeros(0, np.int32)
        assert device.launcher.combine(rows, order, weights).shape == (0, 9)
    else:
        given = inputs([0] * 6) | {"x_sorted": np.zeros((0, COLUMNS), np.float32)}
        assert device.launcher.grouped_matmul(given, 0, "f32").shape == (0, FEATURES)
