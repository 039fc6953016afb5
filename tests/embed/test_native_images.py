"""Images in C++ are the Python runtime's, to the bit; hostile ones are refused."""

from __future__ import annotations

import contextlib
import io
import math
import resource
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from moe_export.dialogue import CropRecipe, PatchRecipe, TileRecipe
from moe_export.errors import MoeExportError, UnsafeInputError, UnsupportedError, UsageError
from moe_export.runtime.fitted import fitted
from moe_export.runtime.images import pixels_of
from moe_export.runtime.patches import patches_of
from moe_export.runtime.preprocess import ImagePreprocessor
from moe_export.runtime.seen import Seen
from moe_export.runtime.tiles import tiles_of
from moe_export.strict_json import decode, render

from .probe import ask

FILTERS = ("bilinear", "bicubic", "lanczos")
SIDES = st.integers(1, 90)
FEW = settings(deadline=None, max_examples=60)


@cache
def photographs() -> list[Path]:
    """Of scikit-learn and scikit-image, which ship some as PNG and some as JPEG."""
    skimage = pytest.importorskip("skimage", reason="its photographs are the test's")
    import sklearn.datasets

    folders = [Path(skimage.__file__).parent / "data"]
    folders += [Path(sklearn.datasets.__file__).parent / "images"]
    found = [path for each in folders for path in sorted(each.glob("*.[jp][pn]g"))]
    assert len(found) > 20
    return found


def of_pillow(path: Path) -> np.ndarray:
    return pixels_of(path, lambda image: image.convert("RGB"), expected="")


def native(content: bytes) -> np.ndarray:
    return ask("read", content, where="x").pixels


def random_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_photographs_are_pillows_to_the_bit():
    for path in photographs():
        np.testing.assert_array_equal(ask("read_file", path=str(path)).pixels, of_pillow(path))


def compressed(image: Image.Image, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, **how)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_a_png_of_every_mode_is_pillows(mode, tmp_path, photos):
    with Image.open(photos[0]) as photo:
        small = photo.resize((61, 43))
    if mode == "I;16":
        grey = np.random.default_rng(0).integers(0, 600, (43, 61), np.uint16)
        image = Image.fromarray(grey)
    elif mode in ("RGBA", "LA"):
        image = small.copy()
        image.putalpha(Image.fromarray(random_pixels(43, 61)[..., 0]))
        image = image.convert(mode)
    else:
        image = small.convert(mode)
    (tmp_path / "x.png").write_bytes(compressed(image, format="PNG"))
    expected = of_pillow(tmp_path / "x.png")
    np.testing.assert_array_equal(native((tmp_path / "x.png").read_bytes()), expected)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, kind: int, rows: bytes, *more: bytes, lace=0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, lace)
    chunks = [
        chunk(b"IHDR", header),
        *more,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# Channels by colour type of PNG: grey, RGB, palette, grey and RGB with alpha.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: first column and row of a pass, and the steps between them.
PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def raw_png(bits: int, kind: int, *, laced: bool, colours: int = 256) -> bytes:
    """Random pixels, written by hand: Pillow writes neither laced files nor all depths."""
    width, height = 13, 11
    draw = np.random.default_rng(bits * 10 + kind)
    planes = PASSES if laced else ((0, 0, 1, 1),)
    rows = b""
    for left, top, step, drop in planes:
        wide, tall = math.ceil((width - left) / step), math.ceil((height - top) / drop)
        size = math.ceil(wide * CHANNELS[kind] * bits / 8)
        rows += b"".join(b"\0" + draw.bytes(size) for _ in range(tall)) if wide and tall else b""
    palette = [chunk(b"PLTE", draw.bytes(3 * colours))] if kind == 3 else []
    return png(width, height, bits, kind, rows, *palette, lace=int(laced))


@pytest.mark.parametrize("laced", [False, True], ids=["plain", "laced"])
@pytest.mark.parametrize(
    ("bits", "kind"),
    [(b, 0) for b in (1, 2, 4, 8, 16)]
    + [(b, 3) for b in (1, 2, 4, 8)]
    + [(b, k) for k in (2, 4, 6) for b in (8, 16)],
)
def test_a_png_of_every_depth_and_colour_type_is_pillows(bits, kind, laced, tmp_path):
    content = raw_png(bits, kind, laced=laced, colours=min(256, 2**bits))
    (tmp_path / "x.png").write_bytes(content)
    np.testing.assert_array_equal(native(content), of_pillow(tmp_path / "x.png"))


def test_what_a_palette_does_not_have_is_black(tmp_path):
    content = raw_png(8, 3, laced=False, colours=100)
    (tmp_path / "x.png").write_bytes(content)
    np.testing.assert_array_equal(native(content), of_pillow(tmp_path / "x.png"))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [10, 75, 98])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_pillows(subsampling, quality, progressive, tmp_path, photos):
    with Image.open(photos[1]) as photo:
        small = photo.resize((157, 93))
    for mode in ("RGB", "L", "CMYK"):
        content = compressed(
            small.convert(mode),
            format="JPEG",
            quality=quality,
            subsampling=subsampling,
            progressive=progressive,
            optimize=True,
        )
        (tmp_path / "x.jpg").write_bytes(content)
        np.testing.assert_array_equal(native(content), of_pillow(tmp_path / "x.jpg"))


def test_a_rotation_in_exif_is_left_to_the_user_as_pillow_leaves_it(tmp_path, photos):
    with Image.open(photos[0]) as photo:
        exif = Image.Exif()
        exif[0x0112] = 6
        (tmp_path / "x.jpg").write_bytes(compressed(photo, format="JPEG", exif=exif))
    found = native((tmp_path / "x.jpg").read_bytes())
    assert found.shape == (427, 640, 3)
    np.testing.assert_array_equal(found, of_pillow(tmp_path / "x.jpg"))


@FEW
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(FILTERS), st.integers(0, 99))
def test_resizing_is_pillows_to_the_bit(height, width, tall, wide, how, seed):
    pixels = random_pixels(height, width, seed)
    resample = Image.Resampling[how.upper()]
    expected = np.asarray(Image.fromarray(pixels).resize((wide, tall), resample))
    found = ask(
        "resize", pixels, height=height, width=width, to_height=tall, to_width=wide, how=how
    )
    np.testing.assert_array_equal(found.pixels, expected)


@pytest.mark.parametrize("how", FILTERS)
def test_photographs_are_resized_as_by_pillow(how, photos):
    for photo in photos:
        pixels = of_pillow(photo)
        height, width = pixels.shape[:2]
        for tall, wide in ((224, 224), (112, 640), (28, 900), (800, 30), (1000, 1200)):
            image = Image.fromarray(pixels).resize((wide, tall), Image.Resampling[how.upper()])
            found = ask(
                "resize", pixels, height=height, width=width, to_height=tall, to_width=wide, how=how
            )
            np.testing.assert_array_equal(found.pixels, np.asarray(image))


COMMON = {
    "token": st.just("<|image|>"),
    "token_id": st.just(1),
    "resample": st.sampled_from(FILTERS),
    "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, 1.0]),
    "mean": st.sampled_from([(0.48145466, 0.4578275, 0.40821073), (0.5, 0.5, 0.5)]),
    "std": st.sampled_from([(0.26862954, 0.26130258, 0.27577711), (0.5, 0.25, 1.0)]),
    "rounding": st.sampled_from(["float32", "bfloat16"]),
}


NUMBERS = {
    "token": "<i>",
    "token_id": 1,
    "rescale_factor": 1 / 255,
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}


@st.composite
def cells(draw) -> PatchRecipe:
    zoom = draw(st.one_of(st.none(), st.floats(0.1, 3.0)))
    return PatchRecipe(
        **{name: draw(each) for name, each in COMMON.items()},
        patch_size=draw(st.integers(1, 16)),
        temporal_patch_size=draw(st.integers(1, 3)),
        merge_size=1,
        min_pixels=1,
        max_pixels=1,
        max_side=None if zoom is None else draw(st.integers(1, 100)),
        zoom=zoom,
        fit="zoom",
        layout="cells",
    )


FITS = ("area", "shrink", "fill", "canvas", "edge", "zoom", "shape", "count", "pad")


@st.composite
def patch_recipes(draw) -> PatchRecipe:
    fit = draw(st.sampled_from(FITS))
    layout = draw(st.sampled_from(["blocks", "rows", "places", "flat_rows", "times"]))
    if fit == "zoom":
        return draw(cells())
    most = draw(st.integers(64, 9000))
    numbers = {name: draw(each) for name, each in COMMON.items()}
    if fit == "count":
        numbers["resample"] = draw(st.sampled_from(["bilinear", "bicubic"]))
    return PatchRecipe(
        **numbers,
        patch_size=draw(st.integers(1, 8 if layout == "places" else 16)),  # one has its place
        temporal_patch_size=draw(st.integers(1, 3)),
        merge_size=draw(st.integers(1, 3)),
        min_pixels=draw(st.integers(1, most)),
        max_pixels=most,
        max_side=draw(st.integers(1, 100)) if fit in ("shrink", "edge") else None,
        fit=fit,
        layout=layout,
        newline=draw(st.booleans()),
        between_rows=draw(st.sampled_from(["", "<row>"])),
    )


@st.composite
def tile_recipes(draw) -> TileRecipe:
    height = draw(st.integers(1, 40))
    most = draw(st.integers(1, 12))
    return TileRecipe(
        **{name: draw(each) for name, each in COMMON.items()},
        height=height,
        width=draw(st.sampled_from([height, 17])),
        features=draw(st.integers(1, 9)),
        separators=draw(st.integers(0, 3)),
        fit=draw(st.sampled_from(["whole", "aspect", "scale", "corner", "middle"])),
        min_tiles=draw(st.integers(1, most)),
        max_tiles=most,
        enlarge=draw(st.booleans()),
        min_side=draw(st.integers(1, height)),
        fill=tuple(draw(st.lists(st.integers(0, 255), min_size=3, max_size=3))),
        masked=draw(st.booleans()),
        max_side=draw(st.sampled_from([None, 80])),
        max_aspect=draw(st.sampled_from([None, 4.5])),
        between_columns=draw(st.sampled_from(["", "<|x|>"])),
        behind_row=draw(st.sampled_from(["", "<|y|>"])),
        before_whole=draw(st.sampled_from(["", "<|whole|>"])),
    )


@st.composite
def cut_recipes(draw) -> TileRecipe:
    most = draw(st.integers(1, 9))
    joined = draw(st.booleans())
    crops = CropRecipe(
        side=draw(st.integers(1, 40)),
        features=draw(st.sampled_from([1, 4, 9]) if joined else st.integers(1, 4)),
        joined=joined,
        fit=draw(st.sampled_from(["grid", "window"])),
        min_pieces=draw(st.integers(1, most)),
        max_pieces=most,
        largest=draw(st.one_of(st.none(), st.integers(1, 70))),
        before=draw(st.sampled_from([""] if joined else ["", "<|a|>"])),
        behind=draw(st.sampled_from([""] if joined else ["", "<|b|>"])),
        between_rows=draw(st.sampled_from([""] if joined else ["", "<|r|>"])),
    )
    tile = draw(tile_recipes())
    one = {"width": tile.height, "min_tiles": 1, "max_tiles": 1, "masked": False}
    return replace(tile, **one, max_side=None, max_aspect=None, crops=crops)


def require_same(found, expected: Seen) -> None:
    assert found.said["text"] == expected.text
    assert found.said["features"] == expected.features
    assert found.said["grid"] == expected.grid.tolist()
    arrays = found.arrays
    assert arrays.keys() == expected.inputs.keys()
    for name, array in arrays.items():
        assert array.dtype == expected.inputs[name].dtype
        np.testing.assert_array_equal(array, expected.inputs[name], err_msg=name)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the kind and the words of its refusal."""
    try:
        return call()
    except MoeExportError as refusal:
        return type(refusal), refusal.message


def compare(do: str, pixels: np.ndarray, recipe: PatchRecipe | TileRecipe) -> None:
    """The same arrays and text, or the same refusal."""
    height, width = pixels.shape[:2]
    asked = {"height": height, "width": width, "recipe": asdict(recipe)}
    prepare = patches_of if do == "patches" else tiles_of
    found = outcome(lambda: ask(do, pixels, **asked))
    try:
        expected = outcome(lambda: prepare(pixels, recipe))
    except (ValueError, ZeroDivisionError):  # Python's own, for images without pixels or places
        expected = None
    if isinstance(expected, Seen):
        require_same(found, expected)
    else:
        assert isinstance(found, tuple)
        assert expected is None or found == expected


# One patch is more than may be made of the image.
NOTHING = PatchRecipe(
    **NUMBERS,
    patch_size=5,
    temporal_patch_size=1,
    merge_size=2,
    min_pixels=1,
    max_pixels=64,
    fit="fill",
    layout="blocks",
)


@settings(deadline=None, max_examples=200)
@given(patch_recipes(), SIDES, SIDES, st.integers(0, 99))
@example(NOTHING, 1, 2, 0)
def test_patches_of_any_recipe_are_the_python_runtimes(recipe, height, width, seed):
    compare("patches", random_pixels(height, width, seed), recipe)


@settings(deadline=None, max_examples=200)
@given(tile_recipes(), SIDES, SIDES, st.integers(0, 99))
def test_tiles_of_any_recipe_are_the_python_runtimes(recipe, height, width, seed):
    compare("tiles", random_pixels(height, width, seed), recipe)


@settings(deadline=None, max_examples=300)
@given(cut_recipes(), SIDES, SIDES, st.integers(0, 99))
def test_pieces_of_any_recipe_are_the_python_runtimes(recipe, height, width, seed):
    compare("tiles", random_pixels(height, width, seed), recipe)


SHAPES = [
    (427, 640),
    (80, 90),
    (70, 600),
    (24, 200),
    (31, 125),
    (850, 900),
    (1201, 397),
    (3100, 90),
]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_photographs_on_a_canvas_are_the_python_runtimes(height, width, photos):
    sizes = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    for least, most in ((28**2 * 16, 28**2 * 6000), (28**2 * 4, 28**2 * 100)):
        limits = {"min_pixels": least, "max_pixels": most}
        recipe = PatchRecipe(**NUMBERS, **sizes, **limits, fit="canvas", layout="blocks")
        compare("patches", photograph_of(height, width, photos), recipe)


@pytest.mark.parametrize(("height", "width"), [*SHAPES, (427, 427), (900, 900), (1000, 1000)])
def test_photographs_near_their_shape_are_the_python_runtimes(height, width, photos):
    sizes = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 1}
    for most in (28**2 * 4096, 28**2 * 200):
        recipe = PatchRecipe(**NUMBERS, **sizes, max_pixels=most, fit="shape", layout="times")
        compare("patches", photograph_of(height, width, photos), recipe)


def test_squares_near_their_shape_are_the_python_runtimes():
    sizes = {"patch_size": 2, "temporal_patch_size": 1, "merge_size": 2, "min_pixels": 1}
    recipe = PatchRecipe(**NUMBERS, **sizes, max_pixels=800, fit="shape", layout="times")
    for side in range(1, 90):
        compare("patches", random_pixels(side, side), recipe)


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_photographs_in_as_many_patches_as_there_is_room_for_are_the_python_runtimes(
    height, width, how, photos
):
    sizes = {"patch_size": 16, "temporal_patch_size": 1, "merge_size": 2}
    for least, most in ((16**2 * 1024, 16**2 * 13312), (16**2 * 4, 16**2 * 60)):
        recipe = PatchRecipe(
            **NUMBERS,
            **sizes,
            resample=how,
            min_pixels=least,
            max_pixels=most,
            fit="count",
            layout="flat_rows",
        )
        compare("patches", photograph_of(height, width, photos), recipe)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_photographs_as_they_are_are_the_python_runtimes(height, width, photos):
    sizes = {"patch_size": 20, "temporal_patch_size": 1, "merge_size": 2}
    recipe = PatchRecipe(**NUMBERS, **sizes, min_pixels=1, max_pixels=2**26, fit="pad")
    compare("patches", photograph_of(height, width, photos), recipe)


# The sizes of Step 3.7 and DeepSeek-OCR 2.
WINDOW = CropRecipe(
    side=504,
    features=81,
    fit="window",
    largest=3024,
    before="<a>",
    behind="<b>",
    between_rows="<r>",
)
GRID = CropRecipe(side=768, features=144, fit="grid", min_pieces=2, max_pieces=6)
CUT = {
    "window": TileRecipe(
        **NUMBERS,
        resample="bilinear",
        height=728,
        width=728,
        features=169,
        fit="whole",
        before_whole="<w>",
        crops=WINDOW,
    ),
    "grid": TileRecipe(
        **NUMBERS,
        height=1024,
        width=1024,
        features=256,
        separators=1,
        fit="middle",
        fill=(127, 127, 127),
        crops=GRID,
    ),
}


@pytest.mark.parametrize("recipe", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_photographs_in_pieces_are_the_python_runtimes(height, width, recipe, photos):
    compare("tiles", photograph_of(height, width, photos), recipe)


def photograph_of(height: int, width: int, photos: list[Path]) -> np.ndarray:
    with Image.open(photos[(height + width) % 2]) as photo:
        return np.asarray(photo.convert("RGB").resize((width, height)))


@settings(deadline=None, max_examples=300)
@given(patch_recipes(), st.integers(1, 9000), st.integers(1, 9000))
def test_the_size_of_any_image_is_the_python_runtimes(recipe, height, width):
    asked = {"height": height, "width": width, "recipe": asdict(recipe)}
    found = outcome(lambda: ask("fitted", **asked).said)
    expected = outcome(lambda: fitted(height, width, recipe))
    assert (tuple(found.values()) if isinstance(found, dict) else found) == expected


PREPARED = [
    {"mode": "L", "layout": "HW"},
    {"mode": "L", "layout": "CHW", "image_mean": [0.5], "image_std": [0.25]},
    {"mode": "RGB", "layout": "HWC", "rescale_factor": 0.01},
    {"mode": "RGB", "image_mean": [0.5, 0.25, 0.1], "image_std": [0.5, 0.3, 2]},
]


@pytest.mark.parametrize("changes", PREPARED)
@pytest.mark.parametrize("size", [(40, 52), (30, 20)])
def test_an_image_of_a_bundle_of_one_graph_is_the_python_runtimes(changes, size):
    config = {"image_input": "image", "size": {"height": 30, "width": 20}, **changes}
    pixels = random_pixels(*size)
    expected = decode(ImagePreprocessor, config, ".", defaults=True).prepare(pixels)
    asked = {"height": size[0], "width": size[1], "config": render(config)}
    found = ask("prepare", pixels, **asked).arrays["image"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


PIXEL_BOMBS = {"81 MP": (9000, 9000), "134 MP": (2**14, 2**13), "4 EP": (2**31 - 1, 2**31 - 1)}


@pytest.mark.parametrize("size", PIXEL_BOMBS.values(), ids=PIXEL_BOMBS.keys())
def test_a_png_of_too_many_pixels_is_refused_before_memory_is_taken(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsafeInputError, match="too large"):
        native(png(*size, 8, 0, bytes(999)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_chunks_that_unpack_to_gigabytes_are_not_unpacked():
    profile = zlib.compress(bytes(2**27), 9)
    bomb = [chunk(kind, b"x\0\0" + profile) for kind in (b"iCCP", b"zTXt")]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert native(png(1, 1, 8, 0, b"\0\7", *bomb)).tolist() == [[[7, 7, 7]]]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


GARBAGE = {
    "empty": b"",
    "script": b"#!/bin/sh\nrm -rf /",
    "GIF": b"GIF89a",
    "half": b"\xff\xd8\xff",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_image_is_refused_by_name(content):
    with pytest.raises(UnsafeInputError, match="not an image") as refusal:
        ask("read", content, where="x.png")
    assert refusal.value.where == "x.png"


@pytest.mark.parametrize("how", ["PNG", "JPEG"])
def test_a_file_that_is_cut_short_is_refused(how):
    content = compressed(Image.fromarray(random_pixels(40, 30)), format=how)
    # The last bytes mark the end; all pixels are in front of them.
    for length in range(0, len(content) - 20, 7):
        with pytest.raises(UnsafeInputError, match="not an image"):
            native(content[:length])


@settings(deadline=None, max_examples=300)
@given(data=st.data(), how=st.sampled_from(["PNG", "JPEG"]))
def test_garbage_is_an_image_or_an_error(data, how):
    content = bytearray(compressed(Image.fromarray(random_pixels(24, 32)), format=how))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnsafeInputError):
        assert native(bytes(content)).size


def test_a_missing_image_is_a_usage_error(tmp_path):
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(UsageError, match="no such image"):
            ask("read_file", path=str(path))


def recipe_with(**changes):
    sizes = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    common = {"token": "<i>", "token_id": 1, "rescale_factor": 1.0, "mean": [0, 0, 0]}
    return {**common, "std": [1, 1, 1], **sizes, "min_pixels": 64, "max_pixels": 4096, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 2**62}, "larger than any image"),
        ({"patch_size": 2**20, "merge_size": 2**20}, "larger than any image"),
        ({"patch_size": 2**20, "layout": "rows"}, "the recipe makes an image"),
        ({"temporal_patch_size": 2**24}, "more than 268435456 numbers"),
        (
            {"patch_size": 64, "min_pixels": 9, "max_pixels": 99, "layout": "places"},
            "has places for",
        ),
        ({"std": [1, 0, 1]}, "std holds a zero"),
        ({"mean": [0, 0]}, "not three channels"),
        ({"min_pixels": 2**27}, "min_pixels is above"),
        ({"fit": "shrink"}, "max_side belongs to shrink"),
        ({"fit": "edge", "max_side": 2**14}, "a max_side of more than"),
        ({"fit": "zoom"}, "zoom belongs to cells"),
        ({"zoom": 2.0, "max_side": 9}, "a factor belongs to zoom"),
        ({"fit": "zoom", "layout": "cells"}, "a cell is one feature"),
        ({"fit": "count", "resample": "lanczos"}, "count resizes bilinear or bicubic"),
        ({"fit": "pad", "patch_size": 2**20}, "the recipe makes an image"),
        ({"between_rows": "a<i>b"}, "what stands between rows holds the image's token"),
        ({"fit": "stretch"}, "expected one of"),
        ({"token": ""}, "no text"),
        ({"surprise": 1}, "unknown key"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes, message):
    pixels = random_pixels(20, 20)
    with pytest.raises(UnsafeInputError, match=message):
        ask("patches", pixels, height=20, width=20, recipe=recipe_with(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 0}, "a size of pieces"),
        ({"largest": 0}, "a size of pieces"),
        ({"min_pieces": 3, "max_pieces": 2}, "min_pieces is above"),
        ({"max_pieces": 257}, "or that above 256"),
        ({"features": 2**16 + 1}, "or that above 256"),
        ({"side": 2**13 + 1}, "pieces of more than"),
        ({"largest": 2**62}, "pieces of more than"),
        ({"fit": "squares"}, "expected one of"),
        ({"joined": True}, "no text between"),
        ({"joined": True, "before": "", "features": 80}, "a square of features"),
        ({"between_rows": "a<i>"}, "holds the image's token"),
        ({"surprise": 1}, "unknown key"),
        ({"side": 2**13, "fit": "window"}, "more than 268435456 numbers"),
        ({"features": 2**16, "before": "x" * 2**16, "side": 1}, "tokens of text"),
    ],
)
def test_a_recipe_of_impossible_pieces_is_refused(changes, message):
    tile = {**asdict(CUT["window"]), "height": 8, "width": 8}
    recipe = {**tile, "crops": {**asdict(WINDOW), **changes}}
    with pytest.raises(UnsafeInputError, match=message):
        ask("tiles", random_pixels(140, 33), height=140, width=33, recipe=recipe)


@pytest.mark.parametrize("changes", [{"max_tiles": 2}, {"masked": True}, {"width": 8}])
def test_pieces_belong_to_one_tile(changes):
    recipe = {**asdict(CUT["window"]), **changes}
    with pytest.raises(UnsafeInputError, match="one square tile"):
        ask("tiles", random_pixels(9, 9), height=9, width=9, recipe=recipe)


# Of the first a square would have too many pixels, of the second nothing is left.
@pytest.mark.parametrize(("height", "width"), [(1, 9000), (32, 120_000)])
def test_an_image_too_thin_to_be_cut_is_refused(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    with pytest.raises(UsageError, match="too long and thin"):
        ask("tiles", pixels, height=height, width=width, recipe=asdict(CUT["window"]))
    compare("tiles", pixels, CUT["window"])


def test_an_image_that_the_processor_would_crop_is_unsupported():
    recipe = TileRecipe(
        token="<i>",  # noqa: S106 - a token of text
        token_id=1,
        rescale_factor=1.0,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        height=8,
        width=8,
        features=1,
        fit="whole",
        max_side=10,
    )
    with pytest.raises(UnsupportedError, match="crops of another size"):
        ask("tiles", random_pixels(20, 20), height=20, width=20, recipe=asdict(recipe))


def test_pixels_are_the_hugging_face_processors():
    """What the Python runtime is held against, the C++ runtime is held against too."""
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from pretrained.test_patches import recipe

    made = recipe()
    size = {"shortest_edge": made.min_pixels, "longest_edge": made.max_pixels}
    processor = Qwen2VLImageProcessorPil(
        size=size, image_mean=list(made.mean), image_std=list(made.std)
    )
    # As in tests/pretrained/test_patches.py: three roundings on each side of numbers up to 1.
    tolerance = 3 * np.finfo(np.float32).eps / min(made.std)
    for path in photographs():
        pixels = ask("read_file", path=str(path)).pixels
        height, width = pixels.shape[:2]
        found = ask("patches", pixels, height=height, width=width, recipe=asdict(made)).arrays
        theirs = processor(images=[Image.open(path).convert("RGB")], return_tensors="np")
        assert found["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
        assert np.abs(found["pixel_values"] - theirs["pixel_values"]).max() <= tolerance
