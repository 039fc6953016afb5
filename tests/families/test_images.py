"""A family whose processor counts pixels otherwise gets the same sizes as from that processor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

from moe_export.dialogue import PatchRecipe
from moe_export.load.pretrained import dialogue_assets
from moe_export.load.pretrained.directory import read_directory
from moe_export.runtime.fitted import canvas_of, fitted
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


def test_a_canvas_is_that_of_glm_for_every_size():
    from transformers.models.glm5_next.image_processing_pil_glm5_next import smart_resize

    recipe = PatchRecipe(
        token="<i>",  # noqa: S106 - of an image
        token_id=1,
        rescale_factor=1.0,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        patch_size=4,
        temporal_patch_size=2,
        merge_size=2,
        min_pixels=6 * 64,
        max_pixels=40 * 64,
        fit="canvas",
    )
    sizes = np.random.default_rng(3).integers(1, 200, (500, 2)).tolist()
    for height, width in sizes:
        expected = smart_resize(2, height, width, 2, 8, min_pixels=6, max_pixels=40)
        assert canvas_of(height, width, recipe) == expected, (height, width)
        tall, wide = _content(height, width, expected)
        if max(height, width) <= 200 * min(height, width):
            assert fitted(height, width, recipe) == (tall, wide), (height, width)


def _content(height, width, canvas):
    """As the processor's ``resize`` has it."""
    scale = min(canvas[0] / height, canvas[1] / width)
    if 2 * height * width >= 2 * 64 * 6:
        scale = min(1.0, scale)
    return (
        max(1, min(canvas[0], math.floor(height * scale))),
        max(1, min(canvas[1], math.floor(width * scale))),
    )


def test_a_shape_is_that_of_muse_for_every_size():
    pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    from transformers.models.muse_glimmer.image_processing_muse_glimmer import smart_resize

    recipe = PatchRecipe(
        token="<i>",  # noqa: S106 - of an image
        token_id=1,
        rescale_factor=1.0,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        patch_size=4,
        temporal_patch_size=2,
        merge_size=2,
        min_pixels=1,
        max_pixels=60 * 64,
        fit="shape",
        layout="times",
    )
    sizes = np.random.default_rng(4).integers(1, 200, (500, 2)).tolist()
    sizes += [(side, side) for side in range(1, 200)]  # of which two are often as near
    for height, width in sizes:
        assert fitted(height, width, recipe) == smart_resize(height, width, 8, 60), (height, width)
