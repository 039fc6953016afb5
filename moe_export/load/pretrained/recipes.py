"""How the runtime makes an image ready, read from the settings of a family's processor."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from moe_export.dialogue import MAX_PIXELS, CropRecipe, PatchRecipe, TileRecipe
from moe_export.forms import Array
from moe_export.load.pretrained.grids import merge_of
from moe_export.load.pretrained.processors import NoProcessorError, Processor
from moe_export.load.pretrained.vision import tile_size
from moe_export.moe.families import Crops, Packed, Padded, Tiles
from moe_export.runtime.crops import plan_of
from moe_export.runtime.tiles import grid_of

Recipe = PatchRecipe | TileRecipe

# Pillow's numbers for the ways to resize.
_RESAMPLING = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


def recipe_of(
    images: Packed | Tiles | Padded,
    config: Any,
    tokenizer: Any,
    processor: Processor,
    crop_side: int | None = None,
) -> tuple[Recipe, str]:
    """A recipe that is not proven yet, and the text of one image with the recipe's token once.

    ``crop_side`` is that of the pieces that ``vision`` takes, if it takes any.  Raises
    ``NoProcessorError`` for settings that no recipe has.
    """
    settings = processor.settings
    token_id = int(config.image_token_id)
    token = str(tokenizer.convert_ids_to_tokens(token_id))
    try:
        alike = {"token": token, "token_id": token_id, **_numbers(images, settings)}
        match images:
            case Packed() if images.cut:
                return _with_rows(_cut(images, settings, alike), processor)
            case Packed(fit="count"):
                recipe: Recipe = counted(images, settings, alike)
            case Packed(fit="pad"):
                recipe = _as_it_is(images, config, settings, alike)
            case Packed():
                recipe = _packed(images, settings, alike)
            case Padded():
                recipe = _padded(settings, alike)
            case Tiles(fit="cells"):
                recipe = _cells(config, settings, alike)
            case Tiles():
                tiles = _tiles(images, config, settings, alike, crop_side)
                return _with_separators(tiles, processor)
    except (KeyError, TypeError, ValueError) as error:
        raise NoProcessorError(f"its processor has settings of other kinds: {error}") from error
    opening, closing = _around(processor.written(_blank(64, 96)), token)
    return recipe, opening + token + closing


def _numbers(images: Packed | Tiles | Padded, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is done with each byte, and how Transformers' number for resizing is called."""
    plain = not settings["do_normalize"]
    resizes = not (isinstance(images, Packed) and images.fit == "pad")
    return {
        **({"resample": _RESAMPLING[int(settings["resample"])]} if resizes else {}),
        "rescale_factor": float(settings["rescale_factor"]) if settings["do_rescale"] else 1.0,
        "mean": (0.0,) * 3 if plain else tuple(map(float, settings["image_mean"])),
        "std": (1.0,) * 3 if plain else tuple(map(float, settings["image_std"])),
    }


def _packed(images: Packed, settings: Mapping[str, Any], alike: dict[str, Any]) -> PatchRecipe:
    patch, size = int(settings["patch_size"]), settings["size"]
    sizes: dict[str, Any] = {
        "patch_size": patch,
        "merge_size": int(settings["merge_size"]),
        "fit": images.fit,
        "layout": _layout(images),
        "newline": images.newline,
    }
    if images.resample is not None:
        alike = {**alike, "resample": images.resample}
    if images.fit == "shrink":
        return PatchRecipe(
            **alike,
            **sizes,
            temporal_patch_size=1,
            min_pixels=1,
            max_pixels=int(settings["max_patches"]) * patch**2,
            max_side=int(size["max_height"]) * patch,
        )
    times = int(settings["temporal_patch_size"])
    if images.fit in ("canvas", "shape"):
        unit = (patch * int(settings["merge_size"])) ** 2
        least = int(settings["min_image_tokens"]) * unit if images.fit == "canvas" else 1
        return PatchRecipe(
            **alike,
            **sizes,
            temporal_patch_size=times,
            min_pixels=least,
            max_pixels=int(settings["max_image_tokens"]) * unit,
        )
    counted = times if images.limits_count_time else 1
    return PatchRecipe(
        **alike,
        **sizes,
        temporal_patch_size=times,
        min_pixels=-(-int(size["shortest_edge"]) // counted),
        max_pixels=int(size["longest_edge"]) // counted,
    )


def _layout(images: Packed) -> Literal["blocks", "rows", "flat_rows", "times"]:
    if images.patch == "times":
        return "times"
    return "flat_rows" if images.order == "rows" and images.patch == "flat" else images.order


def _cut(images: Packed, settings: Mapping[str, Any], alike: dict[str, Any]) -> PatchRecipe:
    patch, merge = int(settings["patch_size"]), int(settings["spatial_merge_size"])
    side, unit = int(settings["size"]["longest_edge"]), patch * merge
    return PatchRecipe(
        **alike,
        patch_size=patch,
        temporal_patch_size=1,
        merge_size=merge,
        min_pixels=1,
        max_pixels=(-(-side // unit) * unit) ** 2,
        max_side=side,
        fit=images.fit,
        layout=images.order,
    )


def counted(images: Packed, settings: Mapping[str, Any], alike: dict[str, Any]) -> PatchRecipe:
    """As many patches of one image as the processor's limits, and what its model reads, allow.

    The processor allows each of several images more only where the least of all of them together
    would be more than the model reads.
    """
    patch, merge = int(settings["patch_size"]), round(1 / float(settings["downsample_ratio"]))
    least, limit = int(settings["min_num_patches"]), int(settings["max_num_patches"])
    # Of the tokens that the model reads the processor leaves four to the text.
    most = (int(settings["max_model_len"]) - 4) * merge**2
    most = max(min(most, limit) if limit else most, least)
    return PatchRecipe(
        **alike,
        patch_size=patch,
        temporal_patch_size=1,
        merge_size=merge,
        min_pixels=least * patch**2,
        max_pixels=most * patch**2,
        fit="count",
        layout=_layout(images),
    )


def _as_it_is(
    images: Packed, config: Any, settings: Mapping[str, Any], alike: dict[str, Any]
) -> PatchRecipe:
    patch, merge, size = int(config.vision_config.patch_size), merge_of(config), settings["size"]
    if (int(size["height"]), int(size["width"])) != (patch * merge, patch * merge):
        raise NoProcessorError("its processor makes squares of another size than its tower takes")
    return PatchRecipe(
        **alike,
        patch_size=patch,
        temporal_patch_size=1,
        merge_size=merge,
        min_pixels=1,
        max_pixels=MAX_PIXELS,
        fit="pad",
        layout=_layout(images),
    )


def _with_rows(recipe: PatchRecipe, processor: Processor) -> tuple[PatchRecipe, str]:
    """The recipe with what the processor writes between two rows of features."""
    unit = recipe.patch_size * recipe.merge_size
    parts = _between(processor.written(_blank(2 * unit, 3 * unit)), recipe.token)
    if len(parts) != 3:
        raise NoProcessorError("its processor does not write the features of an image row by row")
    opening, between, closing = parts
    return replace(recipe, between_rows=between), opening + recipe.token + closing


def _padded(settings: Mapping[str, Any], alike: dict[str, Any]) -> PatchRecipe:
    patch, merge = int(settings["patch_size"]), int(settings["pooling_kernel_size"])
    return PatchRecipe(
        **alike,
        patch_size=patch,
        temporal_patch_size=1,
        merge_size=merge,
        min_pixels=1,
        max_pixels=int(settings["max_soft_tokens"]) * (patch * merge) ** 2,
        fit="fill",
        layout="places",
    )


def _tiles(
    images: Tiles,
    config: Any,
    settings: Mapping[str, Any],
    alike: dict[str, Any],
    crop_side: int | None,
) -> TileRecipe:
    height, width = tile_size(config)
    own: dict[str, Any] = {}
    if images.crops is not None and crop_side is not None:
        joined = images.row_end is not None
        own["crops"] = _crops(images.crops, settings, crop_side, joined=joined)
    match images.fit:
        case "whole" if "crops" not in own:
            # Step 3.7: what fits the whole view and is not elongated has no crops.
            own |= {"max_side": int(settings["size"]["height"]), "max_aspect": 1.5}
        case "aspect" if settings["crop_to_patches"]:
            own["min_tiles"] = int(settings["min_patches"])
            own["max_tiles"] = int(settings["max_patches"])
        case "scale":
            # Llama 4: bfloat16, as the model was trained.
            own |= {"max_tiles": int(settings["max_patches"]), "rounding": "bfloat16"}
            own["enlarge"] = bool(settings["resize_to_max_canvas"])
        case "corner":
            own |= {"min_side": int(settings["min_image_size"])}
        case "middle":
            own |= {"fill": tuple(settings["background_color"])}
            if settings["crop_to_patches"] and crop_side is None:
                own["max_side"] = int(settings["tile_size"])
        case "cells":
            raise AssertionError("cells are patches")
    separators = 0 if images.separator is None else 1
    return TileRecipe(
        **alike,
        height=height,
        width=width,
        features=1,
        separators=separators,
        fit=images.fit,
        masked=images.masked,
        **own,
    )


def _cells(config: Any, settings: Mapping[str, Any], alike: dict[str, Any]) -> PatchRecipe:
    zoom, side = settings["rescale_image_frac"], settings["rescale_image_max_upscaled_long_edge"]
    return PatchRecipe(
        **alike,
        patch_size=int(settings["size"]["height"]),
        temporal_patch_size=int(config.vision_config.temporal_patch_size),
        merge_size=1,
        min_pixels=1,
        max_pixels=MAX_PIXELS,
        max_side=None if zoom is None else int(side),
        zoom=None if zoom is None else float(zoom),
        fit="zoom",
        layout="cells",
    )


def _crops(crops: Crops, settings: Mapping[str, Any], side: int, *, joined: bool) -> CropRecipe:
    """One whose features and texts are not known yet."""
    sizes: dict[str, Any] = (
        {"min_pieces": int(settings["min_patches"]), "max_pieces": int(settings["max_patches"])}
        if crops.fit == "grid"
        else {"largest": int(settings["max_image_size"])}
    )
    return CropRecipe(side=side, features=1, fit=crops.fit, joined=joined, **sizes)


def _with_separators(recipe: TileRecipe, processor: Processor) -> tuple[TileRecipe, str]:
    """The recipe with what the processor writes between tiles, and how many features one has."""
    token, height, width = recipe.token, recipe.height, recipe.width
    side = height if recipe.crops is None else min(height, recipe.crops.side)
    # Of an image that is not cut.
    whole = processor.written(_blank(side, side if recipe.crops is not None else width))
    recipe = replace(recipe, features=whole.count(token) - recipe.separators)
    opening, closing = _around(whole, token)
    if recipe.crops is not None:
        recipe = _with_pieces(recipe, recipe.crops, processor)
        opening = opening.removesuffix(recipe.before_whole)
    if recipe.max_tiles > 1:
        tall, wide = (height * 2, width), (height, width * 2)
        if (grid_of(*tall, recipe), grid_of(*wide, recipe)) != ((2, 1), (1, 2)):
            raise NoProcessorError("its processor does not make two tiles of two squares")
        below = _between(processor.written(_blank(*tall)), token)
        beside = _between(processor.written(_blank(*wide)), token)
        if len(below) == len(beside) == 4:
            behind_row, before_whole = below[1], below[2].removeprefix(below[1])
            recipe = replace(
                recipe,
                between_columns=beside[1],
                behind_row=behind_row,
                before_whole=before_whole,
            )
            opening = opening.removesuffix(before_whole)
    return recipe, opening + token + closing


def _with_pieces(recipe: TileRecipe, crops: CropRecipe, processor: Processor) -> TileRecipe:
    """The recipe with what the processor writes around pieces, and how many features one has."""
    rows, columns, size = next(_cut_squares(recipe, crops))
    written = processor.written(_blank(size, size))
    parts, count = _between(written, recipe.token), written.count(recipe.token)
    features = (count - recipe.features - recipe.separators) // (rows * columns)
    if len(parts) == 2:  # all of them one after the other
        if crops.joined:
            # rows * side rows of columns * side and one more: the larger root is the side.
            of_pieces = (count - recipe.features - recipe.separators) // rows
            features = ((math.isqrt(1 + 4 * columns * of_pieces) - 1) // (2 * columns)) ** 2
        return replace(recipe, crops=replace(crops, features=features))
    if len(parts) != rows * columns + 2:
        raise NoProcessorError("its processor does not write so many pieces of an image")
    before = parts[0]
    behind = parts[1].removesuffix(before)
    return replace(
        recipe,
        before_whole=parts[-2].removeprefix(behind),
        crops=replace(
            crops,
            features=features,
            before=before,
            behind=behind,
            between_rows=parts[columns].removeprefix(behind).removesuffix(before),
        ),
    )


def _cut_squares(recipe: TileRecipe, crops: CropRecipe) -> Iterator[tuple[int, int, int]]:
    """Squares that are cut into several rows and columns, which come first, and their sides."""
    for factor in range(2, 5):
        size = factor * max(crops.side, recipe.height // 2 + 1)
        rows, columns = plan_of(size, size, recipe).grid
        if rows > 1 and columns > 1:
            yield rows, columns, size
    raise NoProcessorError("its processor cuts no square into rows and columns")


def _between(text: str, token: str) -> list[str]:
    """What stands around each run of ``token``."""
    return re.split(f"(?:{re.escape(token)})+", text)


def _around(text: str, token: str) -> tuple[str, str]:
    around = _between(text, token)
    if len(around) != 2:
        raise NoProcessorError("its processor breaks the features of an image into several runs")
    return around[0], around[1]


def _blank(height: int, width: int) -> Array:
    return np.zeros((height, width, 3), np.uint8)
