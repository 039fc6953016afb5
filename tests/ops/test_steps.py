"""Integers from blocks in the cache are those that the plain formulas give, bit by bit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_export.moe import quantize as quantiser
from moe_export.moe.quantize import Precision, Quantized, quantize, quantize_to_bytes

Array = npt.NDArray[Any]

INTEGERS = [
    Precision(kind, block, zeros=zeros)
    for kind, blocks in (("int8", (0, 32, 64, 128)), ("int4", (32, 64, 128)))
    for block in blocks
    for zeros in (False, True)
]


def plainly(weight: Array, precision: Precision) -> Quantized:
    """All blocks at once, a whole array after the other."""
    columns = weight.shape[-1]
    block = precision.block_size or columns
    blocks = -(-columns // block)
    numbers = np.zeros((*weight.shape[:-1], blocks * block), np.float32)
    numbers[..., :columns] = weight
    x = numbers.reshape(*weight.shape[:-1], blocks, block)
    is_int4 = precision.format == "int4"
    low, high = (-8, 7) if is_int4 else (-128, 127)
    candidates = []
    if precision.zeros:
        least, most = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
        for share in (1, 0.95, 0.9) if is_int4 else (1,):
            step = np.float32(share / (high - low))
            scale = rounded_up(most * step - least * step)
            zero = np.rint(np.float32(low) - least * np.float32(share) / scale)
            candidates.append((scale, np.clip(zero, low, high)))
    else:
        size = np.abs(x).max(-1)
        sign = np.where(is_int4 & (x.max(-1) > -x.min(-1)), np.float32(-1), np.float32(1))
        for steps in (7, 8, 8.5) if is_int4 else (127,):
            scale = rounded_up(size / np.float32(steps)) * sign
            candidates.append((scale, np.zeros_like(scale)))
    made = [np.clip(np.rint(x / s[..., None]), low - z[..., None], high - z[..., None])
            for s, z in candidates]  # fmt: skip
    chosen = np.zeros(x.shape[:-1], np.int64)
    if is_int4:
        offs = [q * s[..., None] - x for q, (s, _) in zip(made, candidates, strict=True)]
        chosen = np.argmin([squares(off) for off in offs], axis=0)
    scale = np.choose(chosen, [s for s, _ in candidates])
    zero = np.choose(chosen, [z for _, z in candidates])
    q = np.choose(chosen[..., None], made) + zero[..., None]
    q = q.reshape(numbers.shape)[..., :columns].astype(np.int8)
    return Quantized(q, scale, zero.astype(np.int8) if precision.zeros else None)


def squares(off: Array) -> Array:
    """Four parts, groups of four in the order 3, 2, 1, 0, 7, 6, …, one addition at a time."""
    parts = np.zeros((*off.shape[:-1], 4), np.float32)
    for start in range(0, off.shape[-1], 16):
        for group in (12, 8, 4, 0):
            of_group = off[..., start + group : start + group + 4]
            parts = parts + of_group * of_group
    return (parts[..., 0] + parts[..., 1]) + (parts[..., 2] + parts[..., 3])


def rounded_up(wanted: Array) -> Array:
    bits = np.maximum(wanted, np.finfo(np.float32).tiny).astype(np.float32).view(np.uint32)
    return (((bits + 0xFFFF) >> 16) << 16).view(np.float32)


def assert_same_bits(stored: Quantized, expected: Quantized) -> None:
    for part in ("values", "scales", "zeros"):
        one, other = getattr(stored, part), getattr(expected, part)
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@st.composite
def weights(draw: st.DrawFn) -> Array:
    """Odd shapes; numbers of any size, huge ones, denormals, zeros of both signs, ties, whole rows
    of one sign, blocks that repeat."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 300)))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    weight = rng.normal(size=shape) * 10.0 ** draw(st.integers(-44, 37))
    kind = draw(st.sampled_from(["any", "zeros", "positive", "negative", "huge", "ties", "signs"]))
    if kind == "zeros":
        weight *= rng.integers(0, 2, shape) * rng.choice([-1.0, 1.0], shape)
        weight[0] *= 0
    if kind in ("positive", "negative"):
        weight = np.abs(weight) * (1 if kind == "positive" else -1)
    if kind == "huge":
        weight[..., ::7] = rng.choice([-1, 1]) * float(np.finfo(np.float32).max)
    if kind == "ties":
        weight = rng.integers(-17, 18, shape) * 0.5 ** rng.integers(0, 4, shape)
    if kind == "signs":
        weight = rng.choice([-1.0, 1.0, 0.0, -0.0], shape)
    return weight.clip(-3.4e38, 3.4e38).astype(np.float32)


@settings(max_examples=300, deadline=None)
@given(weights(), st.sampled_from(INTEGERS), st.sampled_from([1, 100, 1 << 17]))
def test_blocks_in_the_cache_give_the_same_bits(
    weight: Array, precision: Precision, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiser, "_CHUNK", chunk)
        stored = quantize_to_bytes(weight, precision)
    with np.errstate(over="ignore"):
        assert_same_bits(stored, plainly(weight, precision))


@pytest.mark.parametrize("precision", INTEGERS, ids=str)
def test_many_normal_numbers_give_the_same_bits(precision: Precision) -> None:
    """Among so many blocks are some whose candidates are nearly as good as each other."""
    weight = np.random.default_rng(5).normal(size=(700, 1000)).astype(ml_dtypes.bfloat16)
    assert_same_bits(quantize_to_bytes(weight, precision), plainly(weight, precision))


@pytest.mark.parametrize("precision", INTEGERS, ids=str)
def test_int4_in_bytes_is_int4(precision: Precision) -> None:
    weight = np.random.default_rng(6).normal(size=(2, 5, 70))
    stored, in_bytes = quantize(weight, precision), quantize_to_bytes(weight, precision)
    np.testing.assert_array_equal(stored.values.astype(np.int8), in_bytes.values)
    if stored.zeros is not None and in_bytes.zeros is not None:
        np.testing.assert_array_equal(stored.zeros.astype(np.int8), in_bytes.zeros)


@pytest.mark.parametrize("precision", INTEGERS, ids=str)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
def test_the_first_number_that_is_not_finite_is_named(precision: Precision, number: float) -> None:
    weight = np.zeros((3, 4, 100))
    weight[1, 2, 77] = number
    weight[2, 0, 0] = -np.inf if number == np.inf else np.inf
    name = "inf" if number == 1e300 else f"{number:g}"
    with pytest.raises(ValueError, match=f"^a weight holds {name}$"):
        quantize(weight, precision)


@pytest.mark.parametrize("precision", INTEGERS, ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 40), (3, 0, 40), (0, 40), (40,)])
def test_no_rows_and_one_row_are_rows(precision: Precision, shape: tuple[int, ...]) -> None:
    weight = np.ones(shape, np.float32)
    stored = quantize_to_bytes(weight, precision)
    assert stored.values.shape == shape
    assert stored.scales is not None
    assert stored.scales.shape == (*shape[:-1], -(-40 // (precision.block_size or 40)))


def test_narrow_rows_take_no_more_memory_than_wide_ones() -> None:
    """One column in blocks of 128: what is padded counts."""
    weight = np.ones((1 << 16, 1), np.float32)
    quantize_to_bytes(weight[:1], Precision("int4", 128))
    tracemalloc.start()
    try:
        quantize_to_bytes(weight, Precision("int4", 128))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 23
