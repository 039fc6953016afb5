"""What is transparent in a PNG lies over chequers in C++ as it does in Python, to the bit."""

from __future__ import annotations

import math
import struct
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from moe_export.dialogue import PatchRecipe
from moe_export.runtime.patches import patches_of

from .probe import ask
from .test_native_images import CHANNELS, NUMBERS, chunk, compressed, png, require_same

PADDED = PatchRecipe(
    **NUMBERS,
    patch_size=10,
    temporal_patch_size=1,
    merge_size=2,
    min_pixels=1,
    max_pixels=4096,
    fit="pad",
)
# Of bits, colour type and the chunk that says what is transparent.
RANDOM = [
    (1, 3, b"\x80"),
    (4, 3, b"\x00\xff\x00"),
    (8, 3, bytes(range(0, 200, 2))),
    (8, 3, b"\xff\xff\x00\xff"),
    (8, 4, None),
    (16, 4, None),
    (8, 6, None),
    (16, 6, None),
]


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


# The same, and one row of pixels, of which Pillow takes some for the transparent colour.
COLOURS = [
    (1, 0, words(0), b"\x40"),
    (1, 0, words(1), b"\x40"),
    (2, 0, words(85), b"\x1b"),
    (4, 0, words(17), b"\x01\x1f"),
    (8, 0, words(7), b"\x07\x50\x5a"),
    (8, 0, words(0x107), b"\x07\x50\x5a"),
    (16, 0, words(300), words(44, 300, 255, 256)),
    (16, 0, words(0xFFFF), words(44, 300, 255, 256)),
    (8, 2, words(7, 80, 90), b"\x07\x50\x5a\x07\x50\x5b"),
    (16, 2, words(7, 80, 90), words(7, 80, 90, 0x707, 0x5050, 0x5A5A)),
]


def require_alike(content: bytes, folder) -> None:
    """The same pixels as Python's, which are not those of the colours alone."""
    path = folder / "x.png"
    path.write_bytes(content)
    found = ask("patches_of_file", path=str(path), recipe=asdict(PADDED))
    require_same(found, patches_of(path, PADDED))
    plain = ask("read_file", path=str(path)).pixels
    without = patches_of(plain, PADDED).inputs["pixel_values"]
    assert not np.array_equal(found.arrays["pixel_values"], without)
    # Other families keep the colour of what is transparent.
    other = replace(PADDED, fit="area")
    found = ask("patches_of_file", path=str(path), recipe=asdict(other))
    require_same(found, patches_of(plain, other))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(("bits", "kind", "clear"), RANDOM)
def test_alpha_and_palettes(bits, kind, clear, tmp_path):
    width, height = 23, 19
    draw = np.random.default_rng(bits * 10 + kind)
    size = math.ceil(width * CHANNELS[kind] * bits / 8)
    rows = b"".join(b"\0" + draw.bytes(size) for _ in range(height))
    more = [chunk(b"PLTE", draw.bytes(3 * 2**bits))] if kind == 3 else []
    more += [] if clear is None else [chunk(b"tRNS", clear)]
    require_alike(png(width, height, bits, kind, rows, *more), tmp_path)


@pytest.mark.parametrize(("bits", "kind", "clear", "row"), COLOURS)
def test_a_transparent_colour(bits, kind, clear, row, tmp_path):
    width = len(row) * 8 // (bits * CHANNELS[kind])
    content = png(width, 1, bits, kind, b"\0" + row, chunk(b"tRNS", clear))
    require_alike(content, tmp_path)


def test_a_photograph_that_fades(photos, tmp_path):
    with Image.open(photos[0]) as photo:
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
        require_alike(compressed(photo, format="PNG"), tmp_path)
