"""A tower that walks over images one by one, and ends each row of features with a newline."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from moe_export.dialogue import PatchRecipe
from moe_export.load.pretrained.examples import Examples
from moe_export.load.pretrained.walked import LinedVision
from moe_export.moe.families import FAMILIES, Packed
from moe_export.runtime.patches import patches_of
from moe_export.runtime.positions import mrope_positions

from .catalogue import Case

IMAGES = FAMILIES["hy_v4_vl"].images
# Features high and wide; a side of four has as many patches as the table has places.
SHAPES = [[(3, 3)], [(1, 1), (2, 4), (3, 1)], [(4, 1), (4, 4)], [(7, 5), (1, 6)]]
RECIPE = PatchRecipe(
    token="<i>",  # noqa: S106 - of an image
    token_id=1,
    rescale_factor=1.0,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    patch_size=4,
    temporal_patch_size=1,
    merge_size=2,
    min_pixels=64,
    max_pixels=4096,
    layout="flat_rows",
    newline=True,
)


def model_of(folder, mode="bilinear"):
    return Case("hy_v4_vl", "vision").save(folder, {"vision_config.interpolate_mode": mode})


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_features_of_images_of_any_shape_are_those_of_the_source(mode, tmp_path):
    assert isinstance(IMAGES, Packed)
    model = model_of(tmp_path, mode)
    for shapes in SHAPES:
        seen = Examples(model, IMAGES).seen(shapes)
        with torch.no_grad():
            expected = torch.cat(model.model.get_image_features(**seen).pooler_output)
        made = LinedVision(model, IMAGES).eval().run(seen)["image_embeds"]
        assert made.shape == expected.shape == (sum(r * (c + 1) for r, c in shapes), 64)
        # Other orders of the same float32 sums, through two layers and three products.
        assert (made - expected).abs().max() <= 1e-5 * expected.abs().max(), shapes


def test_the_last_feature_of_each_row_is_the_newline(tmp_path):
    assert isinstance(IMAGES, Packed)
    model = model_of(tmp_path)
    made = LinedVision(model, IMAGES).eval().run(Examples(model, IMAGES).seen([(2, 3), (3, 1)]))
    newline = model.model.vision_tower.patch_merger.image_newline
    ends = list(accumulate([4, 4, 2, 2, 2]))
    is_newline = (made["image_embeds"] == newline).all(-1)
    assert is_newline.nonzero().flatten().tolist() == [end - 1 for end in ends]


@pytest.mark.parametrize("layout", [[3, (4, 6), 1], [(6, 2), 4, (2, 8)], [5]])
def test_positions_are_those_of_the_source(layout, tmp_path):
    """Numbers are so much text, pairs are the grids of images."""
    grids = [np.array([1, *size]) for size in layout if not isinstance(size, int)]
    kinds = []
    for size in layout:
        is_text = isinstance(size, int)
        kinds += [0] * size if is_text else [1] * (size[0] // 2 * (size[1] // 2 + 1))
    theirs, _ = model_of(tmp_path).model.get_rope_index(
        torch.tensor([kinds]),
        torch.tensor([kinds]),
        torch.tensor(np.stack(grids)) if grids else None,
    )
    assert np.array_equal(mrope_positions(kinds, 1, grids, 2, newline=True), theirs.numpy())


@pytest.mark.parametrize("time", [1, 2])
def test_flat_patches_row_by_row_are_those_of_the_processor(time):
    from transformers import HYV4VLImageProcessorPil

    recipe = replace(RECIPE, temporal_patch_size=time)
    processor = HYV4VLImageProcessorPil(
        patch_size=4,
        temporal_patch_size=time,
        size={"shortest_edge": 64, "longest_edge": 4096},
        do_rescale=False,
        do_normalize=False,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)
    theirs = processor(images=[Image.fromarray(pixels)], return_tensors="np")
    seen = patches_of(pixels, recipe)
    assert seen.inputs["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
    assert np.array_equal(seen.inputs["pixel_values"], theirs["pixel_values"])
    _, rows, columns = seen.grid.tolist()
    assert seen.features == rows // 2 * (columns // 2 + 1) == seen.text.count("<i>")
