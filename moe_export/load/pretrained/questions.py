"""Prompts that a bundle and its model are both asked to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from moe_export.dialogue import (
    FILE_NAME,
    CropRecipe,
    Dialogue,
    ImageRecipe,
    PatchRecipe,
    TileRecipe,
)
from moe_export.errors import MoeExportError
from moe_export.forms import TEXT, Array, Asked
from moe_export.load.pretrained.directory import Pretrained
from moe_export.load.pretrained.examples import Examples
from moe_export.runtime.asking import Asking
from moe_export.runtime.positions import mrope_positions, plain_positions
from moe_export.runtime.text import TOKENIZER, parse_tokenizer
from moe_export.strict_json import decode, parse

_WORDS = "What is a mixture of experts?"
_ABOUT = "What do you see?"
# Of a prompt for a model whose tokenizer is not there.
_TOKENS = 8
# An image of so many features high and wide, where the model takes images of any size.
_UNITS = (2, 3)


def questions(source: Pretrained, assets: Mapping[str, bytes]) -> dict[str, Asked]:
    """A question in words and, where images are made ready, one about a picture.

    Without a tokenizer, a prompt of tokens drawn at random.  What the model has no room for is not
    asked, nor what its recipe for images refuses.
    """
    if FILE_NAME not in assets:
        return {"text": _of_tokens(source)}
    dialogue = decode(Dialogue, parse(assets[FILE_NAME], FILE_NAME), FILE_NAME, defaults=True)
    tokenizer = parse_tokenizer(assets[TOKENIZER], TOKENIZER)
    asking = Asking(dialogue, tokenizer, FILE_NAME)
    made = {}
    with suppress(MoeExportError):
        made["text"] = asking.ask(_WORDS)
    if dialogue.images is not None:
        with suppress(MoeExportError):
            made["image"] = asking.ask(_ABOUT, [asking.see(_picture(dialogue.images))])
    return made


def _of_tokens(source: Pretrained) -> Asked:
    ids = Examples(source.model).tokens(1, _TOKENS).numpy()
    mrope = source.family is not None and source.family.positions == "mrope"
    positions = (
        mrope_positions(ids[0].tolist(), -1, [], 1) if mrope else plain_positions(0, _TOKENS)
    )
    return Asked(ids=ids, positions=positions, modality=np.full(ids.shape, TEXT, np.uint8))


def _picture(recipe: ImageRecipe) -> Array:
    """``[height, width, 3]`` uint8: colours that run from corner to corner, and a bright disk."""
    height, width = _size(recipe)
    row, column = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    colours = np.stack([row, column, 1 - (row + column) / 2], axis=-1)
    colours[(row - 0.5) ** 2 + (column - 0.5) ** 2 < 0.06] = 1.0
    return np.asarray(colours * 255, np.uint8)


def _size(recipe: ImageRecipe) -> tuple[int, int]:
    """Of one tile, or of few patches; what is not cut, where some images are."""
    match recipe:
        case TileRecipe(crops=None):
            return recipe.height, recipe.width
        case TileRecipe(crops=CropRecipe() as crops):
            side = min(crops.side, recipe.height)
            return side, side
        case PatchRecipe():
            unit = recipe.patch_size * recipe.merge_size
            return _UNITS[0] * unit, _UNITS[1] * unit
    raise AssertionError(f"images are made ready in another way: {recipe}")
