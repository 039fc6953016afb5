"""The quantiser: what it stores is near what it was given, and the same every time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_export.moe import quantize as quantiser
from moe_export.moe.quantize import Precision, Quantized, parse_precision, quantize
from moe_export.moe.reference import dequantize

Array = npt.NDArray[Any]
few = settings(max_examples=60, deadline=None)

TEXTS = {
    "f32": Precision("f32"),
    "f16": Precision("f16"),
    "bf16": Precision("bf16"),
    "int8": Precision("int8"),
    "int8:32": Precision("int8", 32),
    "int8:64": Precision("int8", 64),
    "int8:128": Precision("int8", 128),
    "int8+zeros": Precision("int8", zeros=True),
    "int8:64+zeros": Precision("int8", 64, zeros=True),
    "int4:32": Precision("int4", 32),
    "int4:64": Precision("int4", 64),
    "int4:128": Precision("int4", 128),
    "int4:32+zeros": Precision("int4", 32, zeros=True),
}
INTEGERS = [precision for precision in TEXTS.values() if precision.format.startswith("int")]


def numbers(stored: Quantized, precision: Precision) -> Array:
    return dequantize(
        stored.values,
        np.float64,
        scales=stored.scales,
        zeros=stored.zeros,
        block_size=precision.block_size,
    )


def of_columns(per_block: Array, precision: Precision, columns: int) -> Array:
    return np.repeat(per_block, precision.block_size or columns, axis=-1)[..., :columns]


@st.composite
def weights(draw: st.DrawFn) -> Array:
    """Any shape, any size of numbers, blocks of zeros, of one sign, and with one huge number."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 150)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    weight = rng.normal(size=shape) * 10.0 ** draw(st.integers(-30, 30))
    kind = draw(st.sampled_from(["any", "zeros", "positive", "negative", "outlier", "tiny"]))
    if kind == "zeros":
        weight[0] = 0
    if kind in ("positive", "negative"):
        weight = np.abs(weight) * (1 if kind == "positive" else -1)
    if kind == "outlier":
        weight[..., 0] *= 1000
    if kind == "tiny":
        weight[0] = 1e-41
    return weight.astype(np.float32)


@pytest.mark.parametrize("text", TEXTS)
def test_a_precision_is_what_its_text_says(text: str) -> None:
    assert parse_precision(text) == TEXTS[text]
    assert str(TEXTS[text]) == text


def test_int4_has_blocks_of_32() -> None:
    assert parse_precision("int4") == Precision("int4", 32)
    assert parse_precision("int4+zeros") == Precision("int4", 32, zeros=True)


@pytest.mark.parametrize(
    "text",
    ["", "int", "int8:", "int8:0", "int8:16", "int8:0032", "int4:33", "int4:-32", "bf16+zeros",
     "F32", "bf16:32", "int4:32+zeros+zeros", " int8", "int8 ", "int8\n", "int4:٣٢", "fp8",
     "int4:99999"],
)  # fmt: skip
def test_another_text_is_no_precision(text: str) -> None:
    with pytest.raises(ValueError, match="no precision"):
        parse_precision(text)


def test_rows_are_rounded_as_the_weights_ask() -> None:
    rounded = {text: parse_precision(text).row_format for text in TEXTS}
    assert {rounded["f32"], rounded["f16"]} == {"f32"}
    assert rounded["bf16"] == "bf16"
    assert {precision.row_format for precision in INTEGERS if precision.format == "int8"} == {
        "int16"
    }
    assert {precision.row_format for precision in INTEGERS if precision.format == "int4"} == {
        "int8"
    }


@few
@given(weights(), st.sampled_from(INTEGERS))
def test_scales_are_normal_numbers_that_bfloat16_holds(weight: Array, precision: Precision) -> None:
    scales = quantize(weight, precision).scales
    assert scales is not None
    assert scales.dtype == np.float32
    np.testing.assert_array_equal(scales.astype(ml_dtypes.bfloat16).astype(np.float32), scales)
    assert np.abs(scales).min() >= np.finfo(np.float32).tiny


@few
@given(weights(), st.sampled_from(INTEGERS))
def test_types_shapes_and_ranges(weight: Array, precision: Precision) -> None:
    stored = quantize(weight, precision)
    dtype = {"int8": np.int8, "int4": ml_dtypes.int4}[precision.format]
    blocks = -(-weight.shape[-1] // (precision.block_size or weight.shape[-1]))
    assert stored.values.dtype == dtype
    assert stored.values.shape == weight.shape
    assert stored.scales is not None
    assert stored.scales.shape == (*weight.shape[:-1], blocks)
    assert (stored.zeros is not None) == precision.zeros
    if stored.zeros is not None:
        assert stored.zeros.dtype == dtype
        assert stored.zeros.shape == stored.scales.shape
    elif precision.format == "int8":
        assert stored.values.min() >= -127


@few
@given(weights(), st.sampled_from([p for p in INTEGERS if p.format == "int8"]))
def test_int8_is_off_by_half_a_step_at_most(weight: Array, precision: Precision) -> None:
    stored = quantize(weight, precision)
    step = np.abs(of_columns(stored.scales, precision, weight.shape[-1])).astype(np.float64)
    # The quotient has a rounding of its own, of at most 255 steps.
    half = step * (0.5 + 255 * np.finfo(np.float32).eps)
    assert (np.abs(numbers(stored, precision) - weight) <= half).all()


@few
@given(weights(), st.sampled_from([p for p in INTEGERS if p.format == "int4"]))
def test_int4_is_no_worse_than_scales_that_clip_nothing(
    weight: Array, precision: Precision
) -> None:
    stored = quantize(weight, precision)
    columns, block = weight.shape[-1], precision.block_size
    starts = np.arange(0, columns, block)
    wide = weight.astype(np.float64)
    low = np.minimum(np.minimum.reduceat(wide, starts, axis=-1), 0)
    high = np.maximum(np.maximum.reduceat(wide, starts, axis=-1), 0)
    span = (high - low) / 15 if precision.zeros else np.maximum(high, -low) / 7
    # Half a step each, of a scale that is rounded up to bfloat16 and to a normal number.
    step = np.maximum(span, np.finfo(np.float32).tiny) * (1 + 2.0**-7)
    sizes = np.add.reduceat(np.ones(columns), starts)
    squares = np.add.reduceat((numbers(stored, precision) - wide) ** 2, starts, axis=-1)
    assert (squares <= sizes * (step / 2) ** 2 * (1 + 1e-4) + np.finfo(np.float32).tiny).all()


@few
@given(weights(), st.sampled_from(list(TEXTS.values())))
def test_what_was_stored_is_stored_the_same_again(weight: Array, precision: Precision) -> None:
    """Chunks and calls do not change a number."""
    weight = np.clip(weight, -60000, 60000)
    stored = quantize(weight, precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiser, "_CHUNK", 7)
        again = quantize(weight.astype(np.float64), precision)
    for name in ("values", "scales", "zeros"):
        one, other = getattr(stored, name), getattr(again, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("block_size", [32, 128])
def test_whole_steps_are_stored_exactly(block_size: int) -> None:
    rng = np.random.default_rng(3)
    q = rng.integers(-7, 8, size=(2, 5, 256)).astype(np.float32)
    q[..., ::block_size] = -8
    precision = Precision("int4", block_size)
    stored = quantize(q * 0.25, precision)
    np.testing.assert_array_equal(numbers(stored, precision), q * 0.25)
    np.testing.assert_array_equal(np.abs(stored.scales), 0.25)


def test_the_largest_number_becomes_minus_8_whatever_its_sign() -> None:
    weight = np.zeros((1, 2, 32), np.float32)
    weight[0, :, 0] = [8, -8]
    weight[0, :, 1] = [-7, 7]
    stored = quantize(weight, Precision("int4", 32))
    assert stored.values[0, :, 0].tolist() == [-8, -8]
    assert stored.scales[0, :, 0].tolist() == [-1, 1]


def test_floats_are_rounded_to_nearest_even() -> None:
    weight = np.array([[[1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 2.0**-140]]], np.float32)
    stored = quantize(weight, Precision("bf16"))
    assert stored.values.astype(np.float64).tolist() == [[[1, 1 + 2**-6, -1, 0]]]
    assert stored.scales is stored.zeros is None
    weight = np.array([[1 + 2**-11, 1 + 3 * 2**-11]])
    stored = quantize(weight, Precision("f16"))
    assert stored.values.astype(np.float64).tolist() == [[1, 1 + 2**-9]]


@pytest.mark.parametrize(
    ("precision", "number", "message"),
    [
        (Precision("f16"), 70000.0, "holds 70000, which f16 does not"),
        (Precision("bf16"), 3.4e38, "which bf16 does not"),
        (Precision("bf16"), np.nan, "nan"),
        (Precision("int8"), np.nan, "nan"),
        (Precision("int4", 32), -np.inf, "-inf"),
        (Precision("int8", 32, zeros=True), 1e300, "inf"),
    ],
)
def test_a_number_that_the_format_does_not_hold_is_named(
    precision: Precision, number: float, message: str
) -> None:
    weight = np.zeros((2, 3, 40))
    weight[1, 2, 39] = number
    with pytest.raises(ValueError, match=message):
        quantize(weight, precision)


@pytest.mark.parametrize("precision", list(TEXTS.values()), ids=str)
def test_weights_of_bfloat16_and_other_ranks_are_taken_too(precision: Precision) -> None:
    weight = np.random.default_rng(1).normal(size=(2, 3, 40)).astype(ml_dtypes.bfloat16)
    whole = quantize(weight, precision)
    for expert in range(2):
        part = quantize(weight[expert], precision)
        np.testing.assert_array_equal(part.values, whole.values[expert])


@pytest.mark.parametrize(
    "broken", [{"block_size": 32}, {"zeros": True}, {"format": "int4"}, {"format": "fp8"}]
)
def test_a_precision_that_contradicts_itself_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"blocks|zero points|format"):
        replace(Precision("bf16"), **broken)
