"""An image as patches, the way vision transformers of any resolution take it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from moe_export.dialogue import PatchRecipe
from moe_export.errors import UsageError
from moe_export.forms import Array
from moe_export.runtime.images import ImageLike, pillow, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image

# What is longer than this has no size that fits the model's limits and its own shape.
_MAX_ASPECT = 200


def patches_of(image: ImageLike, recipe: PatchRecipe) -> tuple[Array, Array]:
    """``[patches, C * time * patch * patch]`` float32, and the grid ``[3]``: time, height, width.

    Patches that become one feature follow one another.  Pillow resizes, bicubic.
    """

    def prepared(opened: Image) -> Image:
        opened = opened.convert("RGB")
        height, width = fitted(opened.height, opened.width, recipe)
        if (opened.width, opened.height) == (width, height):
            return opened
        return opened.resize((width, height), pillow().Image.Resampling.BICUBIC)

    pixels = pixels_of(image, prepared, expected="give a file, or uint8 [H,W] or [H,W,3]")
    values: Array = pixels.astype(np.float32) * np.float32(recipe.rescale_factor)
    values = (values - np.asarray(recipe.mean, np.float32)) / np.asarray(recipe.std, np.float32)
    return _patches(values, recipe)


def fitted(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    """The size that an image of ``height x width`` is resized to (Qwen2-VL's ``smart_resize``)."""
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise UsageError(f"the image is {height} x {width} pixels, which is too long and thin")
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


def _patches(values: Array, recipe: PatchRecipe) -> tuple[Array, Array]:
    patch, merge, time = recipe.patch_size, recipe.merge_size, recipe.temporal_patch_size
    height, width = values.shape[0] // patch, values.shape[1] // patch
    blocks = values.reshape(height // merge, merge, patch, width // merge, merge, patch, 3)
    in_order = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # blocks, patches of a block, channel, pixels
    repeated = np.repeat(in_order[:, :, :, :, :, np.newaxis], time, axis=5)
    rows = np.ascontiguousarray(repeated.reshape(height * width, -1))
    return rows, np.array([1, height, width], np.int64)
