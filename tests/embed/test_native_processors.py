"""Photographs in C++ become what each family's own processor makes of them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

from families.talkers import TALKERS, Talker
from moe_export.dialogue import PatchRecipe
from moe_export.load.pretrained import dialogue_assets
from moe_export.load.pretrained.directory import read_directory
from moe_export.load.pretrained.sameness import patches_of_squares
from moe_export.runtime.seen import PIECES
from moe_export.strict_json import decode

from .probe import ask

# Those that Transformers makes with Pillow, and those that it resizes in floats or not at all;
# torchvision resizes otherwise.
FLOATS = ("nemotron_h_omni",)
ALIKE = [each for each in TALKERS if each.has_pillow or each.family in (*FLOATS, "inkling2")]
# What the family's whole processor tells the part for images.
TOLD = {"internvl": {"crop_to_patches": True}}
# Height and width of photographs that are cut into four, three and six pieces.
LARGE = ((850, 900), (800, 250), (1201, 1797))


def of_its_processor(talker: Talker, folder: Path, photo: Path) -> dict[str, np.ndarray]:
    judge = talker.image_processor_class().from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a processor's own
        image = Image.open(photo).convert("RGB")
        made = judge(images=[image], return_tensors="np", **TOLD.get(talker.family, {}))
    return {name: np.asarray(array) for name, array in made.items()}


@pytest.mark.parametrize("talker", ALIKE, ids=lambda talker: talker.family)
def test_photographs_are_what_its_processor_makes_of_them(talker, photos, tmp_path):
    if not talker.has_pillow:
        pytest.importorskip("torchvision", reason="its processor needs it")
    talker.save(tmp_path / "model")
    content = dialogue_assets(read_directory(tmp_path / "model"), tmp_path / "model")
    said = json.loads(content["dialogue.json"])
    do = "patches" if said.get("patches") else "tiles"
    recipe = said[do]
    shown = [*photos, *(enlarged(photos[0], tmp_path) if recipe.get("crops") else ())]
    # Each side rounds three times, numbers of at most 1 before they are divided by the spread; and
    # where 640 x 427 floats become 60 x 40, each of 45 products of a sum in both directions.
    roundings = 3 + (90 if talker.family in FLOATS else 0)
    tolerance = roundings * np.finfo(np.float32).eps / min(recipe["std"])
    for photo in shown:
        pixels = ask("read_file", path=str(photo)).pixels
        height, width = pixels.shape[:2]
        found = ask(do, pixels, height=height, width=width, recipe=recipe).arrays
        theirs = of_its_processor(talker, tmp_path / "model", photo)
        if recipe.get("fit") == "pad":
            grid, read = theirs["image_grid_thw"], decode(PatchRecipe, recipe, ".", defaults=True)
            theirs = patches_of_squares(theirs["pixel_values"], grid, read)
        assert (PIECES in theirs) == (len(found.get(PIECES, ())) > 0)
        for name in {"pixel_values", PIECES} & theirs.keys():
            apart = np.abs(found[name] - theirs[name].reshape(found[name].shape)).max()
            assert apart <= tolerance, (photo.name, name)


def enlarged(photo: Path, folder: Path) -> list[Path]:
    made = [folder / f"{height}-{width}.png" for height, width in LARGE]
    for path, (height, width) in zip(made, LARGE, strict=True):
        Image.open(photo).convert("RGB").resize((width, height)).save(path)
    return made
