"""What rows are rounded to, and how far two implementations of that may be from each other."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_export.moe.layer import ROW_STEPS
from moe_export.moe.reference import quantize_rows, round_rows
from moe_export.moe.row_errors import rounded_rows
from moe_export.moe.tolerance import FLOAT32_EPS
from problems import Problem

from . import runtimes

Array = npt.NDArray[Any]
few = settings(max_examples=100, deadline=None)
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@np.errstate(invalid="ignore")
def every_kind_of_float() -> Array:
    """Random bits, all edges between two bfloat16 of some exponents, and subnormal numbers."""
    bits = np.random.default_rng(2).integers(0, 2**32, 1 << 16, dtype=np.uint32)
    kinds = [bits, bits & 0xFFFF0000 | 0x8000, bits & 0x807FFFFF, bits & 0xFFFF0000]
    return np.concatenate(kinds).view(np.float32)


def same(one: Array, other: Array) -> bool:
    is_nan = np.isnan(one)
    return bool((is_nan == np.isnan(other)).all() and (one == other)[~is_nan].all())


@FLOATS
@np.errstate(invalid="ignore", over="ignore")
def test_bfloat16_is_to_nearest_even(dtype: Any) -> None:
    given = every_kind_of_float()
    expected = given.astype(ml_dtypes.bfloat16).astype(dtype)
    assert same(round_rows(given.astype(dtype), "bf16"), expected)
    given_to_torch = torch.from_numpy(given.astype(dtype))
    assert same(torch_rounded(given_to_torch[None], "bf16")[0], expected)


def test_a_float64_is_rounded_once() -> None:
    """By way of float32 it would be a tie, and go to the even 1."""
    above_the_edge = np.array([1 + 2.0**-8 + 2.0**-40])
    assert round_rows(above_the_edge, "bf16") == 1 + 2.0**-7
    assert torch_rounded(torch.from_numpy(above_the_edge)[None], "bf16") == 1 + 2.0**-7


def torch_rounded(x: torch.Tensor, row_format: str) -> Array:
    """As the op does it: one number at a time by a matrix that changes nothing."""
    from moe_export.rewrite.torch_linear import _rounded

    return _rounded(x, row_format).numpy()


@FLOATS
@pytest.mark.parametrize(("row_format", "steps"), [("int8", 127), ("int16", 32767)])
@pytest.mark.parametrize("columns", [1, 31, 32, 33, 64, 70])
def test_rows_of_integers_are_steps_of_each_block(
    dtype: Any, columns: int, row_format: Any, steps: int
) -> None:
    rng = np.random.default_rng(columns)
    rows = (rng.normal(size=(9, columns)) * np.exp2(rng.integers(-40, 40, (9, 1)))).astype(dtype)
    rounded = round_rows(rows, row_format)
    assert rounded.dtype == dtype
    for start in range(0, columns, 32):
        block, made = rows[:, start : start + 32], rounded[:, start : start + 32]
        scale = np.abs(block).max(axis=1, keepdims=True) / dtype(steps)
        np.testing.assert_array_equal(made, np.rint(block / scale) * scale)
    assert same(torch_rounded(torch.from_numpy(rows), row_format), rounded)


@FLOATS
@pytest.mark.parametrize("row_format", ["int8", "int16"])
def test_a_block_with_a_nan_or_an_infinity_is_nan_and_its_neighbours_are_not(
    dtype: Any, row_format: Any
) -> None:
    rows = np.ones((4, 80), dtype)
    rows[0, 3], rows[1, 40], rows[2, 79], rows[3, :] = np.nan, np.inf, -np.inf, 0
    rounded = round_rows(rows, row_format)
    expected = np.zeros((4, 80), bool)
    expected[0, :32], expected[1, 32:64], expected[2, 64:] = True, True, True
    np.testing.assert_array_equal(np.isnan(rounded), expected)
    assert (rounded[:3][~expected[:3]] == 1).all()
    assert same(torch_rounded(torch.from_numpy(rows), row_format), rounded)


def test_ties_go_to_even_steps() -> None:
    rows = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    assert round_rows(rows, "int8").tolist() == [[127, 0, 2, 2, 0, -2]]


def test_a_block_too_small_for_a_scale_is_0() -> None:
    tiny = np.finfo(np.float32).tiny
    rows = np.array([[126.9 * tiny, tiny], [127 * tiny, tiny]], np.float32)
    assert round_rows(rows, "int8").tolist() == [[0, 0], [127 * tiny, tiny]]
    rows = np.array([[32766.0 * tiny, tiny], [32767 * tiny, tiny]], np.float32)
    assert round_rows(rows, "int16").tolist() == [[0, 0], [32767 * tiny, tiny]]


def test_nothing_is_rounded_in_f32() -> None:
    rows = every_kind_of_float()[None]
    assert round_rows(rows, "f32") is rows


@pytest.mark.parametrize("unknown", ["f16", "int4", ""])
def test_another_row_format_is_refused(unknown: Any) -> None:
    with pytest.raises(ValueError, match="unknown row_format"):
        round_rows(np.zeros((1, 2)), unknown)
    with pytest.raises(ValueError, match="unknown row_format"):
        torch_rounded(torch.zeros(1, 2), unknown)


@pytest.mark.parametrize("shape", [(0, 40), (40,), (2, 3, 33), (2, 0, 5)])
@pytest.mark.parametrize("row_format", ["bf16", "int8", "int16"])
def test_rows_of_any_rank_are_rounded(shape: tuple[int, ...], row_format: Any) -> None:
    rows = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    rounded = round_rows(rows, row_format)
    flat = round_rows(rows.reshape(-1, shape[-1]), row_format)
    np.testing.assert_array_equal(rounded.reshape(-1, shape[-1]), flat)
    np.testing.assert_array_equal(torch_rounded(torch.from_numpy(rows), row_format), rounded)


# --- Bounds ---------------------------------------------------------------------------------------


@few
@given(st.sampled_from(["bf16", "int8", "int16"]), st.integers(0, 9999), st.integers(-24, -2))
def test_whoever_is_off_by_less_than_d_rounds_to_within_the_bound(
    row_format: Any, seed: int, exponent: int
) -> None:
    """Moved rows, some of them onto edges, in float32, with a division or a reciprocal."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(8, 70)) * np.exp2(rng.integers(-8, 8, size=(8, 70)))
    rows[0, :40] = 0
    error = np.abs(rows) * 2.0**exponent * rng.random(rows.shape) + 2.0**-30
    rounded, bound = rounded_rows(rows, error, row_format, FLOAT32_EPS)
    np.testing.assert_array_equal(rounded, round_rows(rows, row_format))
    for share in (-1, 1, rng.uniform(-1, 1, size=rows.shape)):
        # float32 has a rounding of its own: stay that much inside.
        inside = np.maximum(error - np.abs(rows) * 2.0**-23, 0)
        moved = (rows + share * inside).astype(np.float32)
        made = round_rows(moved, row_format)
        assert (np.abs(made - rounded) <= bound).all()
        if row_format in ROW_STEPS:
            assert (np.abs(_by_reciprocal(moved, row_format) - rounded) <= bound).all()


def _by_reciprocal(rows: Array, row_format: Any) -> Array:
    """Rows of integers as a kernel may do it, which multiplies by ``1 / scale``."""
    _, scales = quantize_rows(rows, row_format)
    scale = np.repeat(scales, 32, axis=-1)[..., : rows.shape[-1]]
    inverse = np.where(scale > 0, np.float32(1) / np.where(scale > 0, scale, 1), 0)
    return np.rint(rows * inverse.astype(np.float32)) * scale


def test_exact_rows_carry_next_to_nothing_into_a_bound() -> None:
    """Tokens enter exactly: only the quotient's rounding is near an edge, of hardly any number."""
    rows = np.random.default_rng(8).normal(size=(64, 256)).astype(np.float32).astype(np.float64)
    _, of_bf16 = rounded_rows(rows, np.zeros(()), "bf16", FLOAT32_EPS)
    assert of_bf16.max() <= np.finfo(np.float32).tiny
    _, of_int8 = rounded_rows(rows, np.zeros(()), "int8", FLOAT32_EPS)
    small = of_int8 <= 4 * FLOAT32_EPS * np.abs(rows).max()
    assert small.mean() > 1 - 2.0**-12


@pytest.mark.parametrize("row_format", ["int8", "int16"])
@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
def test_every_step_of_a_row_is_the_one_of_the_oracle(runtime: str, row_format: Any) -> None:
    """A matrix that changes nothing shows the rows as they were rounded."""
    columns = 96
    rng = np.random.default_rng(9)
    x = (rng.normal(size=(33, columns)) * np.exp2(rng.integers(-9, 9, (33, 1)))).astype(np.float32)
    identity = np.eye(columns, dtype=np.int8)
    inputs = {"x": x, "weight": identity, "scales": np.ones((columns, 1), np.float32)}
    attributes = {"weight_format": "int8", "block_size": 0, "row_format": row_format}
    problem = Problem(name="steps", op="Linear", inputs=inputs, attributes=attributes)
    steps, scales = quantize_rows(x, row_format)
    of_columns = np.repeat(scales, 32, axis=-1)
    (got,) = runtimes.RUNTIMES[runtime](problem)
    np.testing.assert_array_equal(np.rint(got / of_columns), steps)
    np.testing.assert_allclose(got, steps * of_columns, rtol=2 * FLOAT32_EPS)
