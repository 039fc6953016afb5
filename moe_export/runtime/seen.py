"""An image as the ``vision`` component takes it, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from moe_export.dialogue import ImageRecipe
from moe_export.errors import UsageError
from moe_export.forms import Array
from moe_export.runtime.images import ImageLike, pillow, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image


PIECES = "pixel_values_local"
"""What ``vision`` takes pieces of images as, where it takes any: at least one."""

GRID = "piece_grid"
"""What it takes rows and columns of the pieces of each image as, where these are one picture."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One image, made ready."""

    inputs: Mapping[str, Array]
    """What ``vision`` takes, by name; several images stand behind one another on axis 0."""

    text: str
    """What stands for the image where its prompt has the image's token."""

    features: int
    """How often ``text`` holds the token."""

    grid: Array
    """``[3]``: time, rows and columns of its patches, or of its tiles."""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all that a model hears of it: equal ones have equal features and positions."""
        made = sha256()
        for name, array in sorted({**self.inputs, "": self.grid}.items()):
            made.update(f"{name} {array.dtype} {array.shape};".encode())
            made.update(np.ascontiguousarray(array).data)
        return made.digest()


def side_by_side(images: Sequence[Seen]) -> dict[str, Array]:
    """What ``vision`` takes for one image or more."""
    names = images[0].inputs
    made = {name: np.concatenate([each.inputs[name] for each in images]) for name in names}
    if PIECES in made and not len(made[PIECES]):
        # Nobody reads its features; a graph is not asked to look at nothing.
        made[PIECES] = np.zeros((1, *made[PIECES].shape[1:]), made[PIECES].dtype)
    return made


def opened(image: ImageLike, *, chequered: bool = False) -> Image:
    """An image file or uint8 pixels as RGB.  Raises what ``pixels_of`` does.

    What is transparent keeps its colour, or lies over chequers.
    """
    expected = "give a file, or uint8 [H,W] or [H,W,3]"
    pixels = pixels_of(image, _over_chequers if chequered else _plain, expected=expected)
    made: Image = pillow().Image.fromarray(pixels)
    return made


def _plain(image: Image) -> Image:
    return image.convert("RGB")


def _over_chequers(image: Image) -> Image:
    """Over squares of 8 pixels of two greys, the lighter first, as Inkling 2 has them."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    pixels = np.asarray(image.convert("RGBA"), np.int32)
    row, column = np.ogrid[: image.height, : image.width]
    ground = np.where((row // 8 + column // 8) % 2, 153, 204)[..., np.newaxis]
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    mixed = (colour * alpha + ground * (255 - alpha) + 127) // 255
    made: Image = pillow().Image.fromarray(mixed.astype(np.uint8))
    return made


def too_thin(height: int, width: int) -> UsageError:
    """What is said of an image of which a recipe makes nothing, or too much."""
    return UsageError(f"the image is {height} x {width} pixels, which is too long and thin")


def resized(image: Image, height: int, width: int, recipe: ImageRecipe) -> Image:
    """``image`` in another size, as it is where it has that.

    Raises ``UsageError`` for one so long and thin that nothing of it would be left.
    """
    if min(height, width) < 1:
        raise too_thin(image.height, image.width)
    if (image.height, image.width) == (height, width):
        return image
    how = pillow().Image.Resampling[recipe.resample.upper()]
    return image.resize((width, height), how)


def numbers_of(pixels: Array, recipe: ImageRecipe) -> Array:
    """``pixels [..., 3]`` uint8 as float32, ``(pixel * rescale_factor - mean) / std``."""
    rounded = _to_bfloat16 if recipe.rounding == "bfloat16" else _as_it_is
    mean, std = (rounded(np.asarray(each, np.float32)) for each in (recipe.mean, recipe.std))
    values = rounded(pixels.astype(np.float32) * np.float32(recipe.rescale_factor))
    return rounded(rounded(values - mean) / std)


def _as_it_is(values: Array) -> Array:
    return values


def _to_bfloat16(values: Array) -> Array:
    """Float32 that bfloat16 holds, the nearest, ties to even; of finite numbers."""
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
