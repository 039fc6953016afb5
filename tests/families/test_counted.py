"""Nemotron's processor counts patches and resizes in float32: sizes and pixels are its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from moe_export.dialogue import PatchRecipe
from moe_export.errors import UsageError
from moe_export.load.pretrained.recipes import counted
from moe_export.moe.families import FAMILIES, Packed
from moe_export.runtime.fitted import fitted
from moe_export.runtime.patches import patches_of
from moe_export.runtime.resampling import resampled

NUMBERS = {
    "token": "<i>",
    "token_id": 1,
    "rescale_factor": 1 / 255,
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
SETTINGS = (
    "patch_size",
    "downsample_ratio",
    "min_num_patches",
    "max_num_patches",
    "max_model_len",
)
RECIPE = PatchRecipe(
    **NUMBERS,
    patch_size=16,
    temporal_patch_size=1,
    merge_size=2,
    min_pixels=1024 * 16**2,
    max_pixels=13312 * 16**2,
    fit="count",
    layout="flat_rows",
)
# Height and width of a photograph: as it is, whole patches, small, large, upright, across, thin.
SIZES = [
    (427, 640),
    (512, 512),
    (80, 90),
    (2400, 2100),
    (900, 333),
    (60, 1000),
    (901, 33),
]
# The least and the most patches, and the side of a patch and of what becomes one feature.
LIMITS = [(1024, 13312, 16, 2), (16, 144, 4, 2), (6, 40, 4, 3), (40, 40, 4, 2), (1, 9, 4, 1)]


def limited(least: int, most: int, patch: int, merge: int) -> PatchRecipe:
    limits = {"min_pixels": least * patch**2, "max_pixels": most * patch**2}
    return replace(RECIPE, patch_size=patch, merge_size=merge, **limits)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((512, 512), (32, 32)),  # whole, and enough
        ((528, 512), (34, 32)),  # 33 patches are odd, and get one more
        ((527, 500), (34, 32)),  # 33 and 32 patches begun, up to whole units
        ((16, 16), (32, 32)),  # 1 is odd: 2 x 2 patches, and 16 times as many in each direction
        ((4000, 3000), (132, 100)),  # 250 x 188 shrunk to 133 x 100, and no room for one more row
    ],
)
def test_an_image_has_as_many_patches_as_there_is_room_for(size, grid):
    height, width = fitted(*size, RECIPE)
    assert (height // 16, width // 16) == grid


def test_whole_patches_get_one_more_where_they_are_odd():
    assert fitted(12, 8, limited(1, 100, 4, 1)) == (16, 8)


def test_an_image_of_which_no_patch_is_left_is_refused():
    with pytest.raises(UsageError, match="too long and thin"):
        fitted(4, 400, limited(1, 9, 4, 1))


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_an_image_has_the_size_of_nemotron(limits):
    pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    from transformers.models.nemotron_h_omni import image_processing_nemotron_h_omni as theirs

    least, most, patch, merge = limits
    recipe, sizes = limited(*limits), np.random.default_rng(5).integers(1, 1500, (1000, 2)).tolist()
    for height, width in sizes:
        try:
            grid = theirs.get_patch_grid_size(height, width, patch, merge, least, most)
        except ZeroDivisionError:
            grid = (0, 0)
        if min(grid) == 0 or max(height, width) > 200 * min(height, width):
            with pytest.raises(UsageError, match="too long and thin"):
                fitted(height, width, recipe)
        else:
            found = fitted(height, width, recipe)
            assert found == (grid[0] * patch, grid[1] * patch), (height, width)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 13312),
        ({"max_num_patches": 0}, 65520),
        ({"max_model_len": 1004}, 4000),
        ({"max_model_len": 10}, 1024),
    ],
)
def test_the_limits_of_an_image_are_those_of_the_processor(changes, most):
    pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    import transformers

    processor = transformers.NemotronH_Omni_Reasoning_V3ImageProcessor(**changes)
    settings = {name: getattr(processor, name) for name in SETTINGS}
    images = FAMILIES["nemotron_h_omni"].images
    assert isinstance(images, Packed)
    recipe = counted(images, settings, NUMBERS)
    assert recipe == replace(RECIPE, max_pixels=most * 16**2)
    blank = np.zeros((1500, 2100, 3), np.uint8)
    made = processor(images=[Image.fromarray(blank)], return_tensors="np")
    grid = tuple(side // 16 for side in fitted(1500, 2100, recipe))
    assert made["image_grid_hw"].tolist() == [list(grid)]


def tolerance(old: tuple[int, int], new: tuple[int, int]) -> float:
    """Levels of 256, between two sums of the same products in both directions.

    Each product and each sum is rounded, and a weight three times; weights come to at most 1.5 in
    each direction, and overshoot 255 by a half.
    """
    taps = [5 + 4 * max(1.0, before / after) for before, after in zip(old, new, strict=True)]
    return float((sum(taps) + 6) * np.finfo(np.float32).eps * 1.5**2 * 255)


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(512, 768), (112, 640), (90, 33), (427, 900), (1000, 100)])
def test_photographs_in_another_size_are_pytorchs(how, size, photos):
    for photo in photos:
        pixels = np.asarray(Image.open(photo).convert("RGB"))
        theirs = torch.nn.functional.interpolate(
            torch.tensor(pixels).float().permute(2, 0, 1)[None],
            size=size,
            mode=how,
            antialias=True,
        )[0].permute(1, 2, 0)
        found = resampled(pixels, *size, how)
        assert found.dtype == np.float32
        apart = np.abs(found - theirs.numpy()).max()
        assert apart <= tolerance(pixels.shape[:2], size), photo.name


def test_what_lies_beyond_a_byte_is_kept():
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 255
    found = resampled(edge, 16, 16, "bicubic")
    assert found.min() < -10
    assert found.max() > 265


def test_an_image_in_the_size_of_its_patches_is_not_resized():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    assert np.array_equal(resampled(pixels, 24, 32, "bicubic"), pixels.astype(np.float32))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_photographs_become_the_patches_of_the_processor(size, photos):
    pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    import transformers

    processor = transformers.NemotronH_Omni_Reasoning_V3ImageProcessor()
    for photo in photos:
        picture = Image.open(photo).convert("RGB").resize(size[::-1])
        theirs = processor(images=[picture], return_tensors="np")
        seen = patches_of(np.asarray(picture), RECIPE)
        rows, columns = theirs["image_grid_hw"][0].tolist()
        assert seen.inputs["image_grid_thw"].tolist() == [[1, rows, columns]]
        assert seen.features == rows * columns // 4
        # As many roundings more as make numbers of what is resized: three on each side.
        allowed = tolerance(size, (rows * 16, columns * 16)) / 255 + 3 * np.finfo(np.float32).eps
        apart = np.abs(seen.inputs["pixel_values"] - theirs["pixel_values"]).max()
        assert apart <= allowed / min(RECIPE.std), photo.name
