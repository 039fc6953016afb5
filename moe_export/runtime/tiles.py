"""An image as tiles of one size, the way vision transformers of one resolution take it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from moe_export.dialogue import CropRecipe, TileRecipe
from moe_export.errors import UnsupportedError
from moe_export.forms import Array
from moe_export.runtime.crops import pieces_of, plan_of, squared
from moe_export.runtime.grids import Grid, nearest_shape
from moe_export.runtime.images import ImageLike, pillow
from moe_export.runtime.seen import GRID, PIECES, Seen, numbers_of, opened, resized

if TYPE_CHECKING:
    from PIL.Image import Image


def tiles_of(image: ImageLike, recipe: TileRecipe) -> Seen:
    """An image as ``pixel_values [tiles, C, height, width]``, row by row, the whole of it last.

    With it ``pixel_mask [tiles, height, width]``, true where a pixel is of the image, if the recipe
    has masks; ``pixel_values_local [pieces, C, side, side]`` and ``is_whole [features]`` if it has
    crops, and ``piece_grid [1, 2]`` if these are joined.  Raises ``UnsupportedError`` for an image
    that the model's processor would cut in ways which the recipe has not.
    """
    picture = opened(image)
    _refuse_crops(picture, recipe)
    if recipe.crops is not None:
        return _with_crops(picture, recipe, recipe.crops)
    grid = grid_of(picture.height, picture.width, recipe)
    canvas, (height, width) = _on_canvas(picture, grid, recipe)
    pixels = _cut(np.asarray(canvas, np.uint8), grid)
    if len(pixels) > 1:
        whole = resized(picture, recipe.height, recipe.width, recipe)
        pixels = np.concatenate([pixels, np.asarray(whole, np.uint8)[np.newaxis]])
    values = numbers_of(pixels, recipe).transpose(0, 3, 1, 2)
    inputs = {"pixel_values": np.ascontiguousarray(values)}
    if recipe.masked:
        mask = np.zeros((1, recipe.height, recipe.width), np.bool_)
        mask[0, :height, :width] = True
        inputs["pixel_mask"] = mask
    return Seen(
        inputs=inputs,
        text=_text(grid, recipe),
        features=len(pixels) * recipe.features + recipe.separators,
        grid=np.array([1, *grid], np.int64),
    )


def _with_crops(picture: Image, recipe: TileRecipe, crops: CropRecipe) -> Seen:
    """The whole image in one tile, and its pieces, if it has any, before it."""
    plan = plan_of(picture.height, picture.width, recipe)
    picture = squared(picture, plan)
    canvas, _ = _on_canvas(resized(picture, *plan.whole, recipe), (1, 1), recipe)
    whole = numbers_of(np.asarray(canvas, np.uint8)[np.newaxis], recipe)
    pieces = numbers_of(pieces_of(picture, plan, recipe), recipe)
    of_whole = recipe.features + recipe.separators
    rows, columns = plan.grid
    # Of a joined row of pieces as many rows of features as one has, each with an end.
    ends = math.isqrt(crops.features) if crops.joined else 0
    of_pieces = rows * (columns * crops.features + ends)
    of_row = (crops.before + recipe.token * crops.features + crops.behind) * columns
    row = of_row + recipe.token * ends
    text = crops.between_rows.join([row] * rows) + recipe.before_whole + recipe.token * of_whole
    inputs = {
        "pixel_values": np.ascontiguousarray(whole.transpose(0, 3, 1, 2)),
        PIECES: np.ascontiguousarray(pieces.transpose(0, 3, 1, 2)),
        "is_whole": np.arange(of_pieces + of_whole) >= of_pieces,
    }
    if crops.joined:
        inputs[GRID] = np.array([[rows, columns]], np.int64)
    return Seen(
        inputs=inputs,
        text=text,
        features=of_pieces + of_whole,
        grid=np.array([1, rows, columns], np.int64),
    )


def grid_of(height: int, width: int, recipe: TileRecipe) -> Grid:
    """Rows and columns of the tiles that an image of ``height x width`` is cut into."""
    match recipe.fit:
        case "aspect":
            tile = (recipe.height, recipe.width)
            return nearest_shape(height, width, tile, recipe.min_tiles, recipe.max_tiles)
        case "scale":
            return _least_shrinking(height, width, recipe)
        case _:
            return 1, 1


def _refuse_crops(image: Image, recipe: TileRecipe) -> None:
    longer, shorter = max(image.size), min(image.size)
    too_large = recipe.max_side is not None and longer > recipe.max_side
    too_long = recipe.max_aspect is not None and longer > recipe.max_aspect * shorter
    if not too_large and not too_long:
        return
    limits = [f"{recipe.max_side} pixels on a side"] if recipe.max_side is not None else []
    limits += [f"a shape of {recipe.max_aspect:g} to 1"] if recipe.max_aspect is not None else []
    raise UnsupportedError(
        f"an image of {image.height} x {image.width} pixels is one that the model looks at in"
        " crops of another size, which bundles do not hold yet",
        hint=f"show one of at most {' and '.join(limits)}",
    )


def _least_shrinking(height: int, width: int, recipe: TileRecipe) -> Grid:
    """The smallest grid that holds the image as it is; else the one that shrinks it least.

    With ``enlarge``, the one that enlarges it most.  Of several alike the one of least area.
    """
    sides = range(1, recipe.max_tiles + 1)
    grids = [(rows, columns) for rows in sides for columns in sides]
    grids = sorted((g for g in grids if math.prod(g) <= recipe.max_tiles), key=math.prod)

    # In the precision of the source, which compares for equality.
    size = np.array([height, width], np.float32)
    tiles = np.array(grids, np.float32) * np.array([recipe.height, recipe.width], np.float32)
    scales = (tiles / size).min(axis=1)
    enlarging = scales[scales >= 1]
    if not enlarging.size:
        chosen = scales.max()
    else:
        chosen = enlarging.max() if recipe.enlarge else enlarging.min()
    return grids[int(np.flatnonzero(scales == chosen)[0])]


def _on_canvas(image: Image, grid: Grid, recipe: TileRecipe) -> tuple[Image, Grid]:
    """The image on all its tiles together, and its height and width there."""
    rows, columns = grid
    canvas = (rows * recipe.height, columns * recipe.width)
    height, width = _size_on(canvas, image, recipe)
    picture = resized(image, height, width, recipe)
    if (height, width) == canvas:
        return picture, canvas
    centred = recipe.fit == "middle"
    left, top = ((canvas[1] - width) // 2, (canvas[0] - height) // 2) if centred else (0, 0)
    made: Image = pillow().Image.new("RGB", canvas[::-1], tuple(recipe.fill))
    made.paste(picture, (left, top))
    return made, (height, width)


def _size_on(canvas: Grid, image: Image, recipe: TileRecipe) -> Grid:
    """Height and width of the image on a canvas of so many pixels."""
    sides = (image.height, image.width)
    longer = max(sides)
    match recipe.fit:
        case "whole" | "aspect":
            return canvas
        case "scale":
            tile = (recipe.height, recipe.width)
            return _within(sides, canvas if recipe.enlarge else _grown(sides, canvas, tile))
        case "corner":
            scale = canvas[0] / longer
            height, width = (max(int(side * scale), recipe.min_side) for side in sides)
            return (height, canvas[1]) if image.width >= image.height else (canvas[0], width)
        case "middle":
            scale = canvas[0] / longer
            return round(image.height * scale), round(image.width * scale)


def _grown(sides: Grid, canvas: Grid, tile: Grid) -> Grid:
    """No larger than the image or a tile, whichever is larger, nor than the canvas."""
    height, width = (
        min(max(side, grown), most) for side, grown, most in zip(sides, tile, canvas, strict=True)
    )
    return height, width


def _within(sides: Grid, limits: Grid) -> Grid:
    """The largest size of the image's shape within ``limits``, at least one pixel each way."""
    height, width = sides
    by_height, by_width = limits[0] / height, limits[1] / width
    if by_width < by_height:
        return max(1, min(math.floor(height * by_width), limits[0])), limits[1]
    return limits[0], max(1, min(math.floor(width * by_height), limits[1]))


def _cut(pixels: Array, grid: Grid) -> Array:
    """``[H, W, 3]`` as tiles ``[rows * columns, height, width, 3]``, row by row."""
    rows, columns = grid
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    tiles = pixels.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * columns, height, width, 3)


def _text(grid: Grid, recipe: TileRecipe) -> str:
    tile = recipe.token * recipe.features
    whole = recipe.before_whole + tile + recipe.token * recipe.separators
    if grid == (1, 1):
        return whole
    row = recipe.between_columns.join([tile] * grid[1]) + recipe.behind_row
    return row * grid[0] + whole
