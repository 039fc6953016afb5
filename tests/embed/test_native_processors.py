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
from moe_export.load.pretrained import dialogue_assets
from moe_export.load.pretrained.directory import read_directory
from moe_export.runtime.seen import PIECES

from .probe import ask

# Those that Transformers makes with Pillow; torchvision resizes otherwise.
OF_PILLOW = [talker for talker in TALKERS if talker.has_pillow]
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


@pytest.mark.parametrize("talker", OF_PILLOW, ids=lambda talker: talker.family)
def test_photographs_are_what_its_processor_makes_of_them(talker, photos, tmp_path):
    talker.save(tmp_path / "model")
    content = dialogue_assets(read_directory(tmp_path / "model"), tmp_path / "model")
    said = json.loads(content["dialogue.json"])
    do = "patches" if said.get("patches") else "tiles"
    recipe = said[do]
    shown = [*photos, *(enlarged(photos[0], tmp_path) if recipe.get("crops") else ())]
    # Each side rounds three times, numbers of at most 1 before they are divided by the spread.
    tolerance = 3 * np.finfo(np.float32).eps / min(recipe["std"])
    for photo in shown:
        pixels = ask("read_file", path=str(photo)).pixels
        height, width = pixels.shape[:2]
        found = ask(do, pixels, height=height, width=width, recipe=recipe).arrays
        theirs = of_its_processor(talker, tmp_path / "model", photo)
        assert (PIECES in theirs) == (len(found.get(PIECES, ())) > 0)
        for name in {"pixel_values", PIECES} & theirs.keys():
            apart = np.abs(found[name] - theirs[name].reshape(found[name].shape)).max()
            assert apart <= tolerance, (photo.name, name)


def enlarged(photo: Path, folder: Path) -> list[Path]:
    made = [folder / f"{height}-{width}.png" for height, width in LARGE]
    for path, (height, width) in zip(made, LARGE, strict=True):
        Image.open(photo).convert("RGB").resize((width, height)).save(path)
    return made
