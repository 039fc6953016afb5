"""An image as patches, the way vision transformers of any resolution take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moe_export.dialogue import PatchRecipe
from moe_export.forms import Array
from moe_export.runtime.fitted import canvas_of, fitted
from moe_export.runtime.images import ImageLike, pillow
from moe_export.runtime.resampling import resampled
from moe_export.runtime.seen import Seen, numbers_of, opened, resized

if TYPE_CHECKING:
    from PIL.Image import Image

# The byte around an image that is laid out in cells or padded.
_OUTSIDE = -1.0


def patches_of(image: ImageLike, recipe: PatchRecipe) -> Seen:
    """An image as the patches of ``recipe.layout``; Pillow resizes it but for ``count``.

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
    values = _prepared(opened(image, chequered=recipe.fit == "pad"), recipe)
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


def _prepared(image: Image, recipe: PatchRecipe) -> Array:
    """The numbers of the image in a size of whole units, float32 ``[height, width, 3]``."""
    height, width = fitted(image.height, image.width, recipe)
    if recipe.fit == "count":
        pixels = np.asarray(image, np.uint8)
        return numbers_of(resampled(pixels, height, width, recipe.resample), recipe)
    canvas = canvas_of(image.height, image.width, recipe)
    if recipe.fit == "pad":
        return _laid_out(np.asarray(image, np.uint8), canvas, recipe)
    image = resized(image, height, width, recipe)
    if (height, width) != canvas:
        made: Image = pillow().Image.new("RGB", canvas[::-1])
        made.paste(image)
        image = made
    return numbers_of(np.asarray(image, np.uint8), recipe)


def _laid_out(pixels: Array, canvas: tuple[int, int], recipe: PatchRecipe) -> Array:
    """Numbers with those of what is outside on the right and below."""
    made = np.empty((*canvas, 3), np.float32)
    made[:] = numbers_of(np.full(3, _OUTSIDE), recipe)
    made[: pixels.shape[0], : pixels.shape[1]] = numbers_of(pixels, recipe)
    return made


def _in_cells(image: Image, recipe: PatchRecipe) -> Seen:
    height, width = fitted(image.height, image.width, recipe)
    pixels = np.asarray(resized(image, height, width, recipe), np.uint8)
    side, time = recipe.patch_size, recipe.temporal_patch_size
    grid = np.array([1, -(-height // side), width // side + 1], np.int64)
    canvas = _laid_out(pixels, (int(grid[1]) * side, int(grid[2]) * side), recipe)
    cells = np.repeat(_squares(canvas, side)[:, np.newaxis], time, axis=1)
    count = len(cells)
    return Seen(
        inputs={"pixel_values": cells}, text=recipe.token * count, features=count, grid=grid
    )


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
