"""An image in pieces of one size, which some models look at beside the whole of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moe_export.dialogue import MAX_PIXELS, CropRecipe, TileRecipe
from moe_export.forms import Array
from moe_export.runtime.grids import nearest_shape
from moe_export.runtime.images import pillow
from moe_export.runtime.seen import resized, too_thin

if TYPE_CHECKING:
    from PIL.Image import Image

# Step 3.7's: an image so thin is put on a square first, and one so long is cut by its shorter side.
_THIN, _LONG, _RATHER_LONG = 32, 4, 1.5

# A rest of more than this part of a window is another window.
_REST = 0.2


@dataclass(frozen=True)
class Plan:
    """How an image is cut: sizes are height and width, in pixels."""

    square: int | None
    """The side of a black square in whose corner the image is put first."""

    whole: tuple[int, int]
    """What it is resized to before the whole of it is made a tile."""

    canvas: tuple[int, int]
    """What it is resized to before it is cut."""

    window: tuple[int, int]
    """Of a piece, before it is resized."""

    grid: tuple[int, int]
    """Rows and columns of pieces; none where it is not cut."""


def plan_of(height: int, width: int, recipe: TileRecipe) -> Plan:
    """How an image of ``height x width`` is cut."""
    crops = recipe.crops
    if crops is None:
        return Plan(None, (height, width), (height, width), (height, width), (0, 0))
    if crops.fit == "grid":
        return _gridded(height, width, crops)
    return _windowed(height, width, recipe.height, crops)


def squared(image: Image, plan: Plan) -> Image:
    """The image on its square, where the plan has one."""
    if plan.square is None:
        return image
    made: Image = pillow().Image.new("RGB", (plan.square, plan.square))
    made.paste(image)
    return made


def pieces_of(image: Image, plan: Plan, recipe: TileRecipe) -> Array:
    """``[pieces, side, side, 3]`` of an image on its square, row by row."""
    side = recipe.height if recipe.crops is None else recipe.crops.side
    made = [np.asarray(piece, np.uint8) for piece in _cut(image, plan, side, recipe)]
    return np.stack(made) if made else np.zeros((0, side, side, 3), np.uint8)


def _cut(image: Image, plan: Plan, side: int, recipe: TileRecipe) -> Iterator[Image]:
    rows, columns = plan.grid
    if not rows:
        return
    image = resized(image, *plan.canvas, recipe)
    tall, wide = plan.window
    for row in range(rows):
        for column in range(columns):
            left, top = column * wide, row * tall
            piece = image.crop((left, top, left + wide, top + tall))
            yield resized(piece, side, side, recipe)


def _gridded(height: int, width: int, crops: CropRecipe) -> Plan:
    side, size = crops.side, (height, width)
    if max(size) <= side:
        return Plan(None, size, size, size, (0, 0))
    grid = nearest_shape(height, width, (side, side), crops.min_pieces, crops.max_pieces)
    canvas = (grid[0] * side, grid[1] * side)
    return Plan(None, size, canvas, (side, side), grid)


def _windowed(height: int, width: int, tile: int, crops: CropRecipe) -> Plan:
    image = (height, width)
    longer, shorter = max(image), min(image)
    square = longer if shorter < _THIN and longer > _LONG * shorter else None
    if square is not None:
        if square**2 > MAX_PIXELS:
            raise too_thin(*image)
        height = width = square
    if crops.largest is not None and longer > crops.largest:
        scale = crops.largest / longer
        height, width = int(height * scale), int(width * scale)
    if min(height, width) < 1:
        raise too_thin(*image)
    longer, shorter, size = max(height, width), min(height, width), (height, width)
    if longer <= tile:
        window = shorter if longer / shorter > _RATHER_LONG else 0
    elif longer / shorter > _LONG:
        window = min(shorter, crops.side)
    else:
        window = crops.side
    if not window:
        return Plan(square, size, size, size, (0, 0))
    tall, wide = (_snapped(each, window) for each in size)
    grid = (max(1, tall // window), max(1, wide // window))
    return Plan(square, size, (tall, wide), (min(tall, window), min(wide, window)), grid)


def _snapped(size: int, window: int) -> int:
    """Whole windows, and one more for a rest that counts; what is less than one stays."""
    if size < window:
        return size
    return window * (size // window + (size % window > _REST * window))
