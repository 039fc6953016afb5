"""In which size an image becomes whole patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from moe_export.dialogue import PatchRecipe
from moe_export.errors import UsageError
from moe_export.runtime.seen import too_thin

# What is longer than this has no size that fits the model's limits and its own shape.
_MAX_ASPECT = 200


def fitted(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    """The size that an image of ``height x width`` is resized to.

    ``area`` is Qwen2-VL's ``smart_resize``, ``shrink`` Kimi-VL's, ``fill`` Gemma 4's, ``canvas``
    GLM-5.3's, ``edge`` Pixtral's, ``zoom`` Inkling's, ``shape`` Muse's, ``count`` Nemotron's;
    ``pad`` leaves it (Inkling 2).  Raises ``UsageError`` for an image so long and thin that it has
    none.
    """
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise too_thin(height, width)
    return _SIZES[recipe.fit](height, width, recipe)


def canvas_of(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    """The whole units around the resized image, in pixels."""
    unit = recipe.patch_size * recipe.merge_size
    if recipe.fit == "canvas":
        return _least_canvas(height, width, unit, recipe)
    tall, wide = fitted(height, width, recipe)
    return _whole(tall, unit), _whole(wide, unit)


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


def _on_canvas(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    canvas = canvas_of(height, width, recipe)
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


def _within_count(height: int, width: int, recipe: PatchRecipe) -> tuple[int, int]:
    patch, merge = recipe.patch_size, recipe.merge_size
    least, most = recipe.min_pixels // patch**2, recipe.max_pixels // patch**2
    # Ties go to even: what is whole already gets one more where it is odd.
    tall, wide = (round(side / patch + 0.5) for side in (height, width))
    shrink = min(math.sqrt(most / (tall * wide)), 1.0)
    tall, wide = math.floor(shrink * tall), math.floor(shrink * wide)
    if min(tall, wide) < 1:
        raise too_thin(height, width)
    if tall * wide < least < most:
        grow = math.sqrt(least / (tall * wide))
        tall, wide = math.ceil(grow * tall), math.ceil(grow * wide)
    tall = _whole_within(tall, merge, most // wide)
    wide = _whole_within(wide, merge, most // tall)
    return tall * patch, wide * patch


def _whole_within(side: int, unit: int, most: int) -> int:
    """The least multiple of ``unit`` from ``side`` on; where above ``most``, the last below."""
    above = _whole(side, unit)
    return above if above <= most or above == side else max(unit, above - unit)


def _whole_around(number: float) -> tuple[int, int]:
    return math.floor(number), math.ceil(number)


def _as_it_is(height: int, width: int, _recipe: PatchRecipe) -> tuple[int, int]:
    return height, width


_SIZES: Mapping[str, Callable[[int, int, PatchRecipe], tuple[int, int]]] = {
    "area": _near_area,
    "shrink": _shrunk,
    "fill": _filling,
    "canvas": _on_canvas,
    "edge": _to_edge,
    "zoom": _zoomed,
    "shape": _near_shape,
    "count": _within_count,
    "pad": _as_it_is,
}
