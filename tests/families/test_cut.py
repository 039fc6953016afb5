"""A source that takes whole images: patches, rows of features, and sizes are the ones it makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from moe_export.dialogue import PatchRecipe
from moe_export.load.pretrained.cache import carried
from moe_export.load.pretrained.examples import Examples
from moe_export.load.pretrained.parts import Decoder
from moe_export.load.pretrained.walked import CutVision
from moe_export.moe.families import FAMILIES, Packed
from moe_export.runtime.fitted import fitted
from moe_export.runtime.patches import patches_of

from .catalogue import Case

IMAGES = FAMILIES["mistral_large4"].images
SHAPES = [[(3, 3)], [(1, 1), (2, 4), (3, 1)], [(7, 5), (1, 6)]]
RECIPE = PatchRecipe(
    token="<i>",  # noqa: S106 - of an image
    token_id=1,
    rescale_factor=1.0,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    patch_size=4,
    temporal_patch_size=1,
    merge_size=2,
    min_pixels=1,
    max_pixels=56**2,
    max_side=50,
    fit="edge",
    layout="rows",
    between_rows="<b>",
)


@pytest.mark.parametrize("layers", [-1, -2, [0]], ids=str)
def test_features_of_images_of_any_shape_are_those_of_the_source(layers, tmp_path):
    assert isinstance(IMAGES, Packed)
    model = Case("mistral_large4", "vision").save(tmp_path, {"vision_feature_layer": layers})
    examples = Examples(model, IMAGES)
    images = [examples.seen(shapes) for shapes in SHAPES]
    with torch.no_grad():  # before the parts take the source's modules
        told = [model.model.get_image_features(**examples.as_source(seen)) for seen in images]
    vision = CutVision(model, IMAGES).eval()
    for shapes, seen, made in zip(SHAPES, images, told, strict=True):
        expected, found = torch.cat(made.pooler_output), vision.run(seen)["image_embeds"]
        assert found.shape == expected.shape == (sum(r * c for r, c in shapes), 64)
        # Other orders of the same float32 sums, through two layers and three products.
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), shapes


def test_an_image_has_the_size_of_pixtral():
    from transformers.models.pixtral.image_processing_pil_pixtral import (
        get_resize_output_image_size,
    )

    for height, width in np.random.default_rng(2).integers(1, 200, (500, 2)).tolist():
        expected = get_resize_output_image_size(
            np.zeros((3, height, width)), 50, 8, "channels_first"
        )
        assert fitted(height, width, RECIPE) == expected, (height, width)


def test_a_text_stands_between_the_rows():
    seen = patches_of(np.zeros((20, 30, 3), np.uint8), RECIPE)
    assert seen.grid.tolist() == [1, 6, 8]
    assert seen.text == "<b>".join(["<i>" * 4] * 3)
    assert seen.features == 12


def test_a_layer_that_attends_to_the_keys_of_another_carries_none(tmp_path):
    """But those of its index, where it has one of its own."""
    model = Case("mistral_large4", "vision").save(tmp_path)
    assert model.config.text_config.kv_source_layers == [0, 1, 0, 1, 4]
    decoder = Decoder(model)
    assert carried(decoder.kinds) == [
        *((layer, what) for layer in (0, 1) for what in ("key", "value", "index")),
        (2, "index"),
        (4, "key"),
        (4, "value"),
    ]
