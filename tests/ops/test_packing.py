"""Panels: every byte of them, the way back, and blobs that are not whole."""

from __future__ import annotations

import struct
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_export.moe.packing import Header, pack, packed_size, read_header, unpack

Array = npt.NDArray[Any]
few = settings(max_examples=100, deadline=None)

DTYPES: dict[str, Any] = {
    "f32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "int8": np.int8,
    "int4": ml_dtypes.int4,
}


def random_weight(
    weight_format: str,
    shape: tuple[int, int, int],
    *,
    block_size: int = 0,
    zeros: bool = False,
    wide: bool = False,
) -> dict[str, Any]:
    """The arguments of ``pack``."""
    rng = np.random.default_rng(5)
    if not weight_format.startswith("int"):
        return {"values": rng.normal(size=shape).astype(DTYPES[weight_format])}
    low, high = {"int8": (-128, 128), "int4": (-8, 8)}[weight_format]
    blocks = -(-shape[2] // block_size) if block_size else 1
    of_blocks = (*shape[:2], blocks)
    scales = rng.normal(size=of_blocks).astype(np.float32)
    if not wide:
        scales = scales.astype(ml_dtypes.bfloat16).astype(np.float32)
    arguments = {
        "values": rng.integers(low, high, size=shape).astype(DTYPES[weight_format]),
        "scales": scales,
        "block_size": block_size,
    }
    if zeros:
        arguments["zeros"] = rng.integers(low, high, size=of_blocks).astype(DTYPES[weight_format])
    return arguments


def bits(array: Array | None) -> Array:
    assert array is not None
    if array.dtype == ml_dtypes.int4:
        return array.astype(np.int8)
    return array.view(f"u{array.itemsize}")


# --- Golden bytes ---------------------------------------------------------------------------------


def test_the_bytes_of_floats() -> None:
    """One row of three columns: 16 rows by 3, 4 (in pairs) and 4 columns."""
    values = np.array([[[1.0, -2.0, 0.5]]], np.float32)
    header = struct.pack("<8sIIIIIIIIQ16x", b"MOEPANEL", 1, 0, 1, 1, 3, 0, 0, 0, 192)
    assert len(header) == 64
    rest = struct.pack("<15f", *[0] * 15)
    of_f32 = b"".join(struct.pack("<f", x) + rest for x in (1, -2, 0.5))
    assert pack(values).tobytes() == header + of_f32

    header = struct.pack("<8sIIIIIIIIQ16x", b"MOEPANEL", 1, 2, 1, 1, 3, 0, 0, 0, 128)
    rest = bytes(30)
    of_f16 = b"".join(struct.pack("<e", x) + rest for x in (1, -2, 0.5, 0))
    assert pack(values.astype(np.float16)).tobytes() == header + of_f16

    header = struct.pack("<8sIIIIIIIIQ16x", b"MOEPANEL", 1, 1, 1, 1, 3, 0, 0, 0, 128)
    pairs = [(0x3F80, 0xC000), (0x3F00, 0)]
    of_bf16 = b"".join(struct.pack("<HH", *pair) + bytes(60) for pair in pairs)
    assert pack(values.astype(ml_dtypes.bfloat16)).tobytes() == header + of_bf16


def test_the_bytes_of_int8_with_a_scale_per_row() -> None:
    """Two gated rows of five columns: a panel of gates, then one of values."""
    values = np.array([[[1, -2, 3, -4, 5], [-128, 127, 0, 1, -1]]], np.int8)
    scales = np.array([[[0.5], [0.1]]], np.float32)
    blob = pack(values, gated=True, scales=scales).tobytes()
    panel = 32 * 16 + 16 * 4
    header = struct.pack("<8sIIIIIIIIQ16x", b"MOEPANEL", 1, 3, 1, 2, 5, 0, 1 | 4, 0, 2 * panel)

    def one(row: list[int], scale: float) -> bytes:
        padded = [128] * 60
        fours = [128 + x for x in row] + [128] * 27
        groups = [bytes(fours[i : i + 4]) + bytes(padded) for i in range(0, 32, 4)]
        return b"".join(groups) + struct.pack("<16f", scale, *[0] * 15)

    assert blob == header + one([1, -2, 3, -4, 5], 0.5) + one([-128, 127, 0, 1, -1], 0.1)


def test_the_bytes_of_int4_in_blocks_with_zeros() -> None:
    """Seventeen rows make two panels; 33 columns two blocks of 32, the second of one column."""
    values = np.zeros((1, 17, 33), np.int8)
    values[0, 0, :9] = [1, -2, 3, -4, 5, -6, 7, -8, 2]
    values[0, 16, 32] = -3
    scales = np.zeros((1, 17, 2), np.float32)
    scales[0, 0], scales[0, 16] = [1.0, -0.5], [2.0, 4.0]
    zeros = np.zeros((1, 17, 2), np.int8)
    zeros[0, 0], zeros[0, 16] = [-8, 7], [1, 2]
    blob = pack(
        values.astype(ml_dtypes.int4),
        scales=scales,
        zeros=zeros.astype(ml_dtypes.int4),
        block_size=32,
    ).tobytes()
    value_bytes = 64 * 16 // 2
    panel = value_bytes + 2 * 16 * 2 + 2 * 16 + 32  # up to a multiple of 64
    header = struct.pack("<8sIIIIIIIIQ16x", b"MOEPANEL", 1, 4, 1, 17, 33, 32, 2, 0, 2 * panel)

    first = bytearray(b"\x88" * value_bytes)
    # Columns 0..3 in the low halves, 4..7 in the high ones: 1|5, -2|-6, 3|7, -4|-8, each + 8.
    first[0:4] = bytes([9 | 13 << 4, 6 | 2 << 4, 11 | 15 << 4, 4 | 0 << 4])
    first[64:65] = bytes([10 | 8 << 4])  # column 8, in the next group of 8
    behind = struct.pack("<H30xH30x", 0x3F80, 0xBF00)
    behind += bytes([0, *[8] * 15]) + bytes([15, *[8] * 15]) + bytes(32)
    second = bytearray(b"\x88" * value_bytes)
    second[4 * 64 : 4 * 64 + 1] = bytes([5 | 8 << 4])  # column 32 is in group 4
    behind_second = struct.pack("<H30xH30x", 0x4000, 0x4080)
    behind_second += bytes([9, *[8] * 15]) + bytes([10, *[8] * 15]) + bytes(32)
    assert blob == header + first + behind + second + behind_second


# --- There and back -------------------------------------------------------------------------------


@few
@given(
    st.sampled_from(list(DTYPES)),
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 150)),
    st.sampled_from([0, 32, 64, 128, 160]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["plain", "concatenated", "interleaved"]),
)
def test_what_was_packed_comes_back(
    weight_format: str,
    shape: tuple[int, int, int],
    block_size: int,
    zeros: bool,
    wide: bool,
    gate: str,
) -> None:
    gated = gate != "plain"
    shape = (shape[0], 2 * shape[1] if gated else shape[1], shape[2])
    given = random_weight(weight_format, shape, block_size=block_size, zeros=zeros, wide=wide)
    blob = pack(**given, gated=gated, interleaved=gate == "interleaved")
    values, scales, zero_points, header = unpack(blob)
    order = np.arange(shape[1])
    if gate == "interleaved":
        order = np.concatenate([order[0::2], order[1::2]])
    for name, array in (("values", values), ("scales", scales), ("zeros", zero_points)):
        if name in given:
            np.testing.assert_array_equal(bits(array), bits(given[name][:, order]))
        else:
            assert array is None
    assert (header.experts, header.rows, header.columns) == shape
    assert (header.format, header.gated) == (weight_format, gated)
    assert blob.size == packed_size(
        shape,
        header.format,
        block_size=header.block_size,
        gated=gated,
        zeros="zeros" in given,
        wide_scales=header.wide_scales,
    )


def test_scales_are_wide_only_where_they_must_be() -> None:
    for wide in (False, True):
        given = random_weight("int4", (2, 16, 64), block_size=32, wide=wide)
        assert read_header(pack(**given)).wide_scales == wide
    assert read_header(pack(**random_weight("int8", (2, 16, 64)))).wide_scales


@pytest.mark.parametrize("block_size", [0, 32])
def test_padding_is_nothing_however_it_is_read(block_size: int) -> None:
    """Rows and columns that are not there have scale 0 and the value of 0."""
    given = random_weight("int8", (1, 17, 33), block_size=block_size, zeros=True)
    blob = pack(**given)
    header = read_header(blob)
    panels = blob[64:].reshape(header.panels, header.panel_bytes)
    values = panels[:, : 64 * 16].reshape(2, 16, 16, 4).swapaxes(1, 2).reshape(32, 64)
    assert (values[17:] == 128).all()
    assert (values[:, 33:] == 128).all()
    scales = panels[1, header.value_bytes : header.value_bytes + header.scale_bytes]
    assert not scales.reshape(header.blocks, 16, -1)[:, 1:].any()
    zeros = panels[1, header.value_bytes + header.scale_bytes :][: header.blocks * 16]
    assert (zeros.reshape(header.blocks, 16)[:, 1:] == 128).all()


# --- What is refused ------------------------------------------------------------------------------

WHOLE = pack(**random_weight("int4", (2, 6, 40), block_size=32, zeros=True), gated=True)


def with_field(offset: int, kind: str, value: Any) -> Array:
    blob = WHOLE.copy()
    blob[offset : offset + struct.calcsize(kind)] = list(struct.pack(kind, value))
    return blob


@pytest.mark.parametrize(
    "blob",
    [
        WHOLE[:-1], WHOLE[:63], WHOLE[:0], np.append(WHOLE, np.uint8(0)),
        WHOLE.view(np.int8), WHOLE.reshape(1, -1),
        with_field(0, "8s", b"MOEPANES"),
        with_field(8, "<I", 2), with_field(8, "<I", 0),
        with_field(12, "<I", 5), with_field(12, "<I", 3), with_field(12, "<I", 2**32 - 1),
        with_field(16, "<I", 0), with_field(16, "<I", 3), with_field(16, "<I", 2**32 - 1),
        with_field(20, "<I", 7), with_field(20, "<I", 0), with_field(20, "<I", 2**32 - 2),
        with_field(24, "<I", 0), with_field(24, "<I", 300), with_field(24, "<I", 2**32 - 1),
        with_field(28, "<I", 0), with_field(28, "<I", 16), with_field(28, "<I", 2**31),
        with_field(32, "<I", 1), with_field(32, "<I", 2 | 8 | 1), with_field(32, "<I", 1 | 2 | 4),
        with_field(36, "<I", 1), with_field(40, "<Q", 0), with_field(40, "<Q", 2**63),
        with_field(48, "B", 1), with_field(63, "B", 1),
    ],
)  # fmt: skip
def test_a_blob_that_is_not_whole_is_refused(blob: Array) -> None:
    with pytest.raises(ValueError, match=r"panels|weight|rows|blocks|scale"):
        unpack(blob)


@few
@given(st.integers(0, 63), st.integers(0, 255))
def test_a_header_with_one_other_byte_is_refused_or_still_fits(place: int, byte: int) -> None:
    """It may turn to other columns that take the same bytes, and is then the same size."""
    blob = WHOLE.copy()
    blob[place] = byte
    try:
        header = read_header(blob)
    except ValueError:
        return
    assert header.total_bytes == blob.size


INTEGERS = random_weight("int8", (2, 6, 40), block_size=32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": np.zeros((2, 3, 4))}, "float64"),
        ({"values": np.zeros((3, 4), np.float32)}, r"\(3, 4\)"),
        ({"values": np.zeros((0, 3, 4), np.float32)}, "each axis"),
        ({"values": np.zeros((1, 3, 4), np.float32), "gated": True}, "gates and values"),
        ({"values": np.zeros((1, 3, 4), np.float32), "block_size": 32}, "neither blocks"),
        ({"values": INTEGERS["values"]}, "scales go with"),
        ({**INTEGERS, "values": np.zeros((2, 6, 40), np.float32)}, "scales go with"),
        ({**INTEGERS, "block_size": 48}, "multiple of 32"),
        ({**INTEGERS, "block_size": 64}, "scales"),
        ({**INTEGERS, "zeros": np.zeros((2, 6, 1), np.int8)}, "zeros"),
    ],
)
def test_a_weight_that_does_not_fit_panels_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pack(**arguments)


def test_the_size_of_a_weight_that_nobody_has_is_known() -> None:
    size = packed_size((128, 2 * 1536, 4096), "int4", block_size=32, gated=True)
    assert size == 64 + 128 * 3072 * 4096 * 9 // 16
    assert size == Header(
        format="int4", experts=128, rows=3072, columns=4096, block_size=32, gated=True
    ).total_bytes  # fmt: skip
