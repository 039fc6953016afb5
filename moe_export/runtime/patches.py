"""An image as patches, the way vision transformers of any resolution take it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from moe_export.dialogue import PatchRecipe
from moe_export.errors import UsageError
from moe_export.forms import Array
from moe_export.runtime.images import ImageLike, pillow
from moe_export.runtime.seen import Seen, numbers_of, opened, resized, too_thin

if TYPE_CHECKING:
    from PIL.Image import Image

# The byte around an image that is laid out in cells.
_OUTSIDE = -1.0

# What is longer than this has no size that fits the model's limits and its own shape.
_MAX_ASPECT = 200


def patches_of(image: ImageLike, recipe: PatchRecipe) -> Seen:
    """An image as the patches of ``recipe.layout``; Pillow resizes it.

    - ``blocks``: ``pixel_values [patches, C * time * patch * patch]``, patches of one feature
      behind one another, and ``image_grid_thw [1, 3]``: time, height, width.
    - ``rows``: ``pixel_values [patches, C, patch, patch]``, row by row, and the same grid;
      ``flat_rows`` the same as ``[patches, C * time * patch * patch]``.
    - ``places``: ``pixel_values [1, most, patch * patch * C]``, row by row, and
      ``image_position_ids [1, most, 2]``: column and row, -1 behind the image's patches.
    - ``cells``: ``pixel_values [patches, time, patch, patch, C]``, row by row.
    - ``times``: ``pixel_values [patches, time * C * patch * patch]``, row by row, and a grid.
    """
    if recipe.layout == "cells":
        return _in_cells(opened(image), recipe)
    values = numbers_of(np.asarray(_prepared(opened(image), recipe), np.uint8), recipe)
    patch, merge = recipe.patch_size, recipe.merge_size
    grid = np.array([1, values.shape[0] // patch, values.shape[1] // patch], np.int64)
    rows, in_row = int(grid[1]) // merge, int(grid[2]) // merge + recipe.newline
    text = recipe.between_rows.join([recipe.token * in_row] * rows)
    match recipe.layout:
        case "blocks":
            inputs = {"pixel_values": _blocks(values, recipe), "image_grid_thw": grid[np.newaxis]}
        case "rows":
            squares = _squares(values, patch).transpose(0, 3, 1, 2)
            inputs = {
                "pixel_values": np.ascontiguousarray(squares),
                "image_grid_thw": grid[np.newaxis],
            }
        case "flat_rows":
            inputs = {"pixel_values": _flat(values, recipe), "image_grid_thw": grid[np.newaxis]}
        case "times":
            flat = _squares(values, patch).transpose(0, 3, 1, 2).reshape(int(grid.prod()), -1)
            repeated = np.tile(flat, (1, recipe.temporal_patch_size))
            inputs = {"pixel_values": repeated, "image_grid_thw": grid[np.newaxis]}
        case _:
            inputs = _places(_squares(values, patch), grid, recipe.max_pixels // patch**2)
    return Seen(inputs=inputs, text=text, features=rows * in_row, grid=grid)


def fitted(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    """The size that an image of ``height x width`` is resized to.

    ``area`` is Qwen2-VL's ``smart_resize``, ``shrink`` Kimi-VL's, ``fill`` Gemma 4's, ``canvas``
    GLM-5.3's, ``edge`` Pixtral's, ``zoom`` Inkling's, ``shape`` Muse's.  Raises ``UsageError`` for
    an image so long and thin that it has none.
    """
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise too_thin(height, width)
    match recipe.fit:
        case "area":
            return _near_area(height, width, recipe)
        case "shrink":
            return _shrunk(height, width, recipe)
        case "fill":
            return _filling(height, width, recipe)
        case "canvas":
            return _on_canvas(height, width, canvas_of(height, width, recipe), recipe)
        case "edge":
            return _to_edge(height, width, recipe)
        case "zoom":
            return _zoomed(height, width, recipe)
        case "shape":
            return _near_shape(height, width, recipe)


def canvas_of(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    """The whole units around the resized image, in pixels."""
    unit = recipe.patch_size * recipe.merge_size
    if recipe.fit == "canvas":
        return _least_canvas(height, width, unit, recipe)
    tall, wide = fitted(height, width, recipe)
    return _whole(tall, unit), _whole(wide, unit)


def _prepared(image: Image, recipe: PatchRecipe) -> Image:
    """The image in a size of whole units."""
    canvas = canvas_of(image.height, image.width, recipe)
    height, width = fitted(image.height, image.width, recipe)
    image = resized(image, height, width, recipe)
    if (height, width) == canvas:
        return image
    made: Image = pillow().Image.new("RGB", canvas[::-1])
    made.paste(image)
    return made


def _whole(side: int, unit: int) -> int:
    """The least multiple of ``unit`` that is no less than ``side``."""
    return -(-side // unit) * unit


def _least_canvas(height: int, width: int, unit: int, recipe: PatchRecipe) -> tuple[int, int]:
    tall, wide = _whole(height, unit), _whole(width, unit)
    if tall * wide < recipe.min_pixels:
        grow = math.sqrt(recipe.min_pixels / (height * width))
        tall, wide = (_whole(max(1, math.ceil(side * grow)), unit) for side in (height, width))
    if tall * wide <= recipe.max_pixels:
        return tall, wide
    low, high, best = 1, height, (unit, unit)
    while low <= high:  # the tallest that fits, in its own shape
        middle = (low + high) // 2
        tall, wide = _whole(middle, unit), _whole(max(1, width * middle // height), unit)
        if tall * wide <= recipe.max_pixels:
            best, low = (tall, wide), middle + 1
        else:
            high = middle - 1
    return best


def _on_canvas(
    height: int, width: int, canvas: tuple[int, int], recipe: PatchRecipe
) -> tuple[int, int]:
    scale = min(canvas[0] / height, canvas[1] / width)
    if height * width >= recipe.min_pixels:
        scale = min(1.0, scale)
    tall, wide = (
        max(1, min(most, math.floor(side * scale)))
        for side, most in zip((height, width), canvas, strict=True)
    )
    return tall, wide


def _near_area(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    unit = recipe.patch_size * recipe.merge_size

    # Python rounds ties to even, and so must this.
    tall, wide = (round(side / unit) * unit for side in (height, width))
    if tall * wide > recipe.max_pixels:
        shrink = math.sqrt(height * width / recipe.max_pixels)
        tall, wide = (max(1, math.floor(side / shrink / unit)) * unit for side in (height, width))
    elif tall * wide < recipe.min_pixels:
        grow = math.sqrt(recipe.min_pixels / (height * width))
        tall, wide = (math.ceil(side * grow / unit) * unit for side in (height, width))
    return tall, wide


def _shrunk(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    most = recipe.max_side or max(height, width)
    patch = recipe.patch_size
    patches = max(1, height // patch) * max(1, width // patch)
    by_area = math.sqrt(recipe.max_pixels // patch**2 / patches)
    scale = min(1.0, by_area, most / height, most / width)
    tall, wide = (min(max(1, int(side * scale)), most) for side in (height, width))
    return tall, wide


def _to_edge(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    unit = recipe.patch_size * recipe.merge_size
    ratio = max(1.0, max(height, width) / (recipe.max_side or max(height, width)))
    tall, wide = (_whole(math.floor(side / ratio), unit) for side in (height, width))
    return tall, wide


def _zoomed(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    longer = max(height, width)
    target = min(longer * (recipe.zoom or 1.0), max(recipe.max_side or longer, longer))
    tall, wide = (math.floor(side * (target / longer) + 0.5) for side in (height, width))
    return tall, wide


def _filling(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    unit = recipe.patch_size * recipe.merge_size
    scale = math.sqrt(recipe.max_pixels / (height * width))
    tall, wide = (math.floor(scale * side / unit) for side in (height, width))
    most = recipe.max_pixels // unit**2
    if tall == 0 and wide == 0:
        raise UsageError(f"the image is {height} x {width} pixels, for which there is no size")
    if tall == 0:
        tall, wide = 1, min(width // height, most)
    elif wide == 0:
        tall, wide = min(height // width, most), 1
    return tall * unit, wide * unit


def _in_cells(image: Image, recipe: PatchRecipe) -> Seen:
    height, width = fitted(image.height, image.width, recipe)
    values = numbers_of(np.asarray(resized(image, height, width, recipe), np.uint8), recipe)
    side, time = recipe.patch_size, recipe.temporal_patch_size
    grid = np.array([1, -(-height // side), width // side + 1], np.int64)
    canvas = np.empty((int(grid[1]) * side, int(grid[2]) * side, 3), np.float32)
    canvas[:] = numbers_of(np.full(3, _OUTSIDE), recipe)
    canvas[:height, :width] = values
    cells = np.repeat(_squares(canvas, side)[:, np.newaxis], time, axis=1)
    count = len(cells)
    return Seen(
        inputs={"pixel_values": cells}, text=recipe.token * count, features=count, grid=grid
    )


def _near_shape(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    unit = recipe.patch_size * recipe.merge_size
    most = recipe.max_pixels // unit**2
    tall, wide = height / unit, width / unit
    ratio = wide / tall
    if tall * wide > most:
        tall = (most / ratio) ** 0.5
        wide = tall * ratio
    # A set: of two that are as near, the processor takes the one that such a set gives first.
    near = {(a, b) for a in _whole_around(tall) for b in _whole_around(wide)}
    fits = [(a, b) for a, b in near if a >= 1 and b >= 1 and a * b <= most]
    if not fits:
        fits = [(max(1, round(tall)), max(1, round(wide)))]
    best = min(fits, key=lambda size: abs(size[0] / size[1] - height / width))
    return best[0] * unit, best[1] * unit


def _whole_around(number: float) -> tuple[int, int]:
    return math.floor(number), math.ceil(number)


def _blocks(values: Array, recipe: PatchRecipe) -> Array:
    patch, merge, time = recipe.patch_size, recipe.merge_size, recipe.temporal_patch_size
    height, width = values.shape[0] // patch, values.shape[1] // patch
    blocks = values.reshape(height // merge, merge, patch, width // merge, merge, patch, 3)
    in_order = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # blocks, patches of a block, channel, pixels
    repeated = np.repeat(in_order[:, :, :, :, :, np.newaxis], time, axis=5)
    return np.ascontiguousarray(repeated.reshape(height * width, -1))


def _flat(values: Array, recipe: PatchRecipe) -> Array:
    squares = _squares(values, recipe.patch_size).transpose(0, 3, 1, 2)
    repeated = np.repeat(squares[:, :, np.newaxis], recipe.temporal_patch_size, axis=2)
    return np.ascontiguousarray(repeated.reshape(len(squares), -1))


def _squares(values: Array, patch: int) -> Array:
    """``[patches, patch, patch, C]``, row by row."""
    height, width = values.shape[0] // patch, values.shape[1] // patch
    rows = values.reshape(height, patch, width, patch, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(height * width, patch, patch, 3)


def _places(squares: Array, grid: Array, most: int) -> dict[str, Array]:
    """Patches with the column and row of each, padded to ``most``."""
    count, columns = len(squares), int(grid[2])
    pixels = np.zeros((1, most, squares[0].size), np.float32)
    pixels[0, :count] = squares.reshape(count, -1)
    places = np.full((1, most, 2), -1, np.int64)
    row, column = np.divmod(np.arange(count), columns)
    places[0, :count] = np.stack([column, row], axis=-1)
    return {"pixel_values": pixels, "image_position_ids": places}
