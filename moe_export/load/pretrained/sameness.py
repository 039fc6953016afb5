"""Whether the runtime makes of images what a family's own processor makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_export.dialogue import PatchRecipe, Prompt, TileRecipe
from moe_export.errors import MoeExportError
from moe_export.forms import Array
from moe_export.load.pretrained.processors import NoProcessorError, Processor
from moe_export.load.pretrained.recipes import Recipe
from moe_export.runtime.fitted import canvas_of, fitted
from moe_export.runtime.patches import patches_of
from moe_export.runtime.seen import GRID, PIECES, Seen
from moe_export.runtime.tiles import tiles_of

# What stands for the user's words while a template is looked at.
WORDS = "moe-export asks"

# Torchvision and Pillow weigh pixels alike, and round in each direction once or at the end alone.
_LEVELS = 2

# The largest images that are made ready here: more takes seconds.
_MAX_PIXELS = 2**21


@dataclass(frozen=True)
class _Trial:
    """The size of an image, and whether nothing is resized to make it ready."""

    height: int
    width: int
    as_it_is: bool = False


@dataclass(frozen=True)
class Question:
    """``WORDS`` about one image: the chat template's text, and the runtime's form of it."""

    text: str
    form: Prompt

    def about(self, image: Seen, token: str) -> str:
        """The runtime's text."""
        shown = (self.form.image or "").replace(token, image.text)
        return self.form.before + shown + WORDS + self.form.after


def require_sameness(recipe: Recipe, asked: Question, processor: Processor, codec: Any) -> None:
    """Raise ``NoProcessorError`` where a prompt or its arrays are not those of the processor.

    ``codec`` is the tokenizer as the runtime has it.  Ids, shapes, grids and masks must be equal.
    Pixels are equal but for rounding where nothing is resized, where the processor resizes with
    Pillow, and where it does in floats, as the runtime does; else they may be ``_LEVELS`` of 256
    apart.  Packed images
    beyond ``_MAX_PIXELS`` are compared by how many patches they have.
    """
    for trial in _trials(recipe):
        size = f"an image of {trial.height} x {trial.width}"
        if trial.height * trial.width > _MAX_PIXELS:
            _require_as_many(recipe, processor, trial)
            continue
        image = _picture(trial.height, trial.width)
        try:
            seen = _seen(image, recipe)
        except MoeExportError:
            continue  # which the runtime refuses to show
        made = processor(asked.text, image)
        arrays = _patches(made.arrays, recipe)
        text = asked.about(seen, recipe.token)
        if codec.encode(text, add_special_tokens=False).ids != made.ids:
            raise NoProcessorError(f"its processor writes other tokens for {size}")
        exact = trial.as_it_is or processor.resizes_with_pillow or recipe.fit == "count"
        for name, ours in seen.inputs.items():
            if name in ("is_whole", GRID) or (name == PIECES and not len(ours)):
                continue  # which tokens are whose is in their text
            theirs = arrays.get(name)
            if theirs is None or theirs.shape != ours.shape:
                raise NoProcessorError(f"its processor makes {name} of another shape of {size}")
            if np.abs(theirs.astype(np.float32) - ours).max() > _tolerance(recipe, exact=exact):
                raise NoProcessorError(f"its processor makes other {name} of {size}")


def _patches(arrays: Mapping[str, Array], recipe: Recipe) -> Mapping[str, Array]:
    """What a processor makes; a whole image with its size, or squares, as patches of the recipe."""
    if isinstance(recipe, TileRecipe):
        return arrays
    if "image_grid_hw" in arrays:
        grid = np.pad(arrays["image_grid_hw"], ((0, 0), (1, 0)), constant_values=1)
        return {"pixel_values": arrays["pixel_values"], "image_grid_thw": grid}
    if recipe.fit == "pad":
        return patches_of_squares(arrays["pixel_values"], arrays["image_grid_thw"], recipe)
    if "image_sizes" not in arrays:
        return arrays
    side, (height, width) = recipe.patch_size, arrays["image_sizes"][0].tolist()
    rows, columns = height // side, width // side
    whole = arrays["pixel_values"][0, :, :height, :width].reshape(3, rows, side, columns, side)
    patches = whole.transpose(1, 3, 0, 2, 4).reshape(rows * columns, 3, side, side)
    return {"pixel_values": patches, "image_grid_thw": np.array([[1, rows, columns]])}


def patches_of_squares(squares: Array, grid: Array, recipe: PatchRecipe) -> Mapping[str, Array]:
    """Squares ``[features, height, width, channels]`` as flat patches, those of one together."""
    side, merge = recipe.patch_size, recipe.merge_size
    inner = squares.reshape(-1, merge, side, merge, side, 3).transpose(0, 1, 3, 5, 2, 4)
    return {
        "pixel_values": inner.reshape(-1, 3 * side**2),
        "image_grid_thw": grid * np.array([1, merge, merge]),
    }


def _seen(image: Array, recipe: Recipe) -> Seen:
    return patches_of(image, recipe) if isinstance(recipe, PatchRecipe) else tiles_of(image, recipe)


def _tolerance(recipe: Recipe, *, exact: bool) -> float:
    # Some three roundings on either side, of numbers below 1 that are then divided; where floats
    # are resized, those of a dozen products more in each direction.
    roundings = 32 if recipe.fit == "count" else 8
    rounding = roundings * np.finfo(np.float32).eps / min(recipe.std)
    if exact:
        return float(rounding)
    if recipe.rounding == "bfloat16":
        rounding += 2.0**-8 / min(recipe.std)
    return float(rounding + _LEVELS * recipe.rescale_factor / min(recipe.std))


def _require_as_many(recipe: Recipe, processor: Processor, trial: _Trial) -> None:
    if isinstance(recipe, TileRecipe) or recipe.layout == "places" or recipe.fit == "edge":
        return
    height, width = canvas_of(trial.height, trial.width, recipe)
    patches = (height // recipe.patch_size) * (width // recipe.patch_size)
    if processor.number_of_patches(trial.height, trial.width) != patches:
        raise NoProcessorError("its processor fits large images otherwise")


def _trials(recipe: Recipe) -> Iterator[_Trial]:
    """Sizes within all limits and beyond each, upright and across."""
    if isinstance(recipe, TileRecipe):
        height, width = recipe.height, recipe.width
        yield _Trial(height, width, as_it_is=True)
        shapes = [(0.3, 0.4), (0.9, 0.7), (1.7, 2.6), (3.1, 1.2), (0.4, 1.9), (2.2, 2.1)]
        yield from (_Trial(round(tall * height), round(wide * width)) for tall, wide in shapes)
        if recipe.crops is not None:
            yield _Trial(20, round(1.3 * width))  # so thin that some put it on a square
        return
    unit = recipe.patch_size * recipe.merge_size
    if recipe.layout == "cells" or recipe.fit == "pad":
        for cells in ((1.0, 1.0), (0.3, 0.4), (0.9, 1.7), (2.0, 3.0), (3.1, 2.2)):
            tall, wide = (max(1, round(each * unit)) for each in cells)
            yield _Trial(tall, wide, as_it_is=recipe.zoom is None)
        return
    areas = [recipe.min_pixels / 3, recipe.min_pixels * 2, recipe.max_pixels * 0.8]
    for area in (*areas, recipe.max_pixels * 3):
        for shape in (2 / 3, 1.9):
            tall, wide = (max(unit, round((area * each) ** 0.5)) for each in (shape, 1 / shape))
            yield _Trial(tall, wide)
    height, width = fitted(2 * unit, 3 * unit, recipe)
    yield _Trial(height, width, as_it_is=True)


def _picture(height: int, width: int) -> Array:
    """Squares of colours drawn at random, ``[height, width, 3]``.

    Bicubic resizing overshoots an edge by less than a fifth of it: nothing here is cut off at 0 or
    255, which libraries do at different moments.
    """
    draws = np.random.default_rng(0).integers(64, 192, (-(-height // 8), -(-width // 8), 3))
    squares = draws.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    return np.ascontiguousarray(squares[:height, :width])
