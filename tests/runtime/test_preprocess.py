from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.toy import bigram_model, export
from moe_export.errors import MoeExportError, UnsafeInputError, UnsupportedError, UsageError
from moe_export.runtime import Bundle
from moe_export.runtime.preprocess import ImagePreprocessor, ImageSize

GREY = ImagePreprocessor(
    image_input="image",
    size=ImageSize(height=2, width=3),
    mode="L",
    rescale_factor=1 / 255,
    layout="HW",
)
COLOUR = ImagePreprocessor(
    image_input="image",
    size=ImageSize(height=2, width=2),
    image_mean=(0.5, 0.25, 0.0),
    image_std=(0.5, 1.0, 2.0),
)
PIXELS = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_file_and_its_pixels_are_the_same_input(tmp_path):
    (tmp_path / "digit.png").write_bytes(png(PIXELS))
    expected = PIXELS.astype(np.float32) * np.float32(1 / 255)
    for image in (tmp_path / "digit.png", str(tmp_path / "digit.png"), PIXELS):
        result = GREY.prepare(image)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, expected)


def test_what_the_model_takes_already_is_left_alone():
    ready = np.random.default_rng(0).standard_normal((2, 3), np.float32)
    assert GREY.prepare(ready) is ready


def test_channels_are_normalized_each_by_its_own_and_come_first():
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    expected = np.empty((3, 2, 2), np.float32)
    expected[0], expected[1], expected[2] = (1 - 0.5) / 0.5, -0.25, 0
    result = COLOUR.prepare(red)
    assert result.shape == COLOUR.shape
    # One rounding in the product, one in the difference, none in a division by a power of two.
    np.testing.assert_allclose(result, expected, rtol=0, atol=2 * np.finfo(np.float32).eps)


def test_other_sizes_are_resized_and_a_flat_image_stays_flat():
    flat = np.full((20, 30, 3), 51, np.uint8)
    np.testing.assert_array_equal(GREY.prepare(flat), np.full((2, 3), 51 * np.float32(1 / 255)))


def test_the_last_axis_may_hold_the_channels():
    last = ImagePreprocessor(image_input="image", size=ImageSize(height=4, width=5), layout="HWC")
    assert last.prepare(np.zeros((9, 9), np.uint8)).shape == last.shape == (4, 5, 3)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 3)),
        np.zeros((3, 2), np.float32),
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((0, 3), np.uint8),
        np.zeros(3, np.uint8),
        np.array(["x"]),
    ],
)
def test_arrays_that_could_mean_anything_are_refused(image):
    with pytest.raises(UsageError, match="cannot take an image of") as refusal:
        GREY.prepare(image)
    assert "float32 [2, 3]" in refusal.value.hint


def test_a_missing_image_is_a_usage_error(tmp_path):
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(UsageError, match="no such image"):
            GREY.prepare(path)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that promises ``width x height`` pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(999))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an image"),
        (b"GIF89a", "not an image"),
        (b"#!/bin/sh\nrm -rf /", "not an image"),
        (png(PIXELS)[:45], "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png_of_size(9000, 9000), "too large"),
        (png_of_size(2**14, 2**13), "too large"),
        (png_of_size(2**31 - 1, 2**31 - 1), "too large"),
    ],
    ids=["empty", "cut", "script", "half a PNG", "PostScript", "81 MP", "134 MP", "4 EP"],
)
def test_hostile_images_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UnsafeInputError, match=message) as refusal:
        GREY.prepare(tmp_path / "x.png")
    assert refusal.value.where == str(tmp_path / "x.png")


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_garbage_never_ends_in_a_traceback(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "garbage.png"
    content = bytearray(png(np.tile(PIXELS, (8, 8))))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(MoeExportError):
        assert GREY.prepare(path).shape == GREY.shape


def edited(tmp_path, edit) -> Bundle:
    """A bundle whose preprocessor_config.json was edited before it was made."""
    export(bigram_model(edit_preprocessor=edit), tmp_path / "out")
    return Bundle.open(tmp_path / "out")


def test_the_bundle_says_how_images_are_prepared(bigram):
    found = ImagePreprocessor.from_bundle(bigram)
    assert found.image_input == "image"
    assert found.shape == (2, 2)


def test_a_setting_this_release_would_ignore_is_refused(tmp_path):
    bundle = edited(tmp_path, lambda config: config.update(do_pan_and_scan=True))
    with pytest.raises(UnsupportedError, match="unknown setting 'do_pan_and_scan'"):
        ImagePreprocessor.from_bundle(bundle)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("size"), "'size' is missing"),
        (lambda c: c.update(size={"height": 0, "width": 2}), "0 x 2 pixels"),
        (lambda c: c.update(size={"height": 2**20, "width": 2**20}), "pixels"),
        (lambda c: c.update(mode="CMYK"), "expected one of 'L', 'RGB'"),
        (lambda c: c.update(mode="RGB"), "no axis for the 3 channels"),
        (lambda c: c.update(image_mean=[0.5, 0.5]), "2 numbers for 1 channels"),
        (lambda c: c.update(image_std=[0.0]), "zero"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_file(tmp_path, edit, message):
    bundle = edited(tmp_path, edit)
    with pytest.raises(UnsafeInputError, match=message) as refusal:
        ImagePreprocessor.from_bundle(bundle)
    assert "preprocessor_config.json" in refusal.value.where
