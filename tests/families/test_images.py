"""A family whose processor counts pixels otherwise gets the same sizes as from that processor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

from moe_export.load.pretrained import dialogue_assets
from moe_export.load.pretrained.directory import read_directory
from moe_export.runtime.patches import patches_of
from moe_export.strict_json import parse
from pretrained_models import tokenizer

from .catalogue import Case

# Pixels of one side: too few, within the limits, and too many.
SIDES = (9, 30, 100)


@pytest.fixture(scope="module")
def processor_and_recipe(tmp_path_factory):
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    from moe_export.dialogue import Dialogue
    from moe_export.strict_json import decode

    folder = tmp_path_factory.mktemp("glm")
    Case("glm4v_moe", "vision").save(folder)
    tokenizer(named={"image_token": "<|image_pad|>"}).save_pretrained(folder)
    processor = Glm4vImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 512, "longest_edge": 4096}
    )
    processor.save_pretrained(folder)
    content = dialogue_assets(read_directory(folder), folder)["dialogue.json"]
    return processor, decode(Dialogue, parse(content, "."), ".", defaults=True).patches


@pytest.mark.parametrize("side", SIDES)
def test_glm_images_become_the_processors_patches(processor_and_recipe, side):
    processor, recipe = processor_and_recipe
    pixels = np.random.default_rng(0).integers(0, 256, (side, side * 3 // 2, 3), np.uint8)
    made = processor(images=[Image.fromarray(pixels)], return_tensors="np")
    seen = patches_of(pixels, recipe)
    assert made["image_grid_thw"].tolist() == [seen.grid.tolist()]
    # Both resize with Pillow to bytes; the rest is a handful of float32 operations.
    assert np.abs(made["pixel_values"] - seen.inputs["pixel_values"]).max() <= 1e-5
