"""Patches and positions that the runtime makes without PyTorch are those of Transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moe_export.dialogue import PatchRecipe
from moe_export.errors import UsageError
from moe_export.runtime.fitted import fitted
from moe_export.runtime.patches import patches_of
from moe_export.runtime.positions import mrope_positions, plain_positions

SIDES = st.integers(1, 5000)


def recipe(patch: int = 14, merge: int = 2, low: int = 56**2, high: int = 28**2 * 1280):
    return PatchRecipe(
        token="<|image_pad|>",  # noqa: S106 - a token of text
        token_id=1,
        patch_size=patch,
        temporal_patch_size=2,
        merge_size=merge,
        min_pixels=low,
        max_pixels=high,
        rescale_factor=1 / 255,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


def of_transformers(made: PatchRecipe):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=made.patch_size,
        merge_size=made.merge_size,
        temporal_patch_size=made.temporal_patch_size,
        size={"shortest_edge": made.min_pixels, "longest_edge": made.max_pixels},
        image_mean=list(made.mean),
        image_std=list(made.std),
    )


def require_same_patches(image: Path | np.ndarray, made: PatchRecipe) -> None:
    pixels = Image.open(image) if isinstance(image, Path) else Image.fromarray(image)
    theirs = of_transformers(made)(images=[pixels], return_tensors="np")
    seen = patches_of(image, made)
    patches = seen.inputs["pixel_values"]
    assert seen.grid.tolist() == theirs["image_grid_thw"][0].tolist()
    assert patches.dtype == np.float32
    assert patches.shape == theirs["pixel_values"].shape
    # Three operations on each side, which Transformers joins to two; each rounds by half an eps.
    # What is subtracted is of the size of a pixel, at most 1, before it is divided by the spread.
    tolerance = 3 * np.finfo(np.float32).eps / min(made.std)
    assert np.abs(patches - theirs["pixel_values"]).max() <= tolerance


@pytest.mark.parametrize("patch", [4, 14, 16])
def test_photographs_become_the_same_patches(photos, patch):
    for photo in photos:
        require_same_patches(photo, recipe(patch))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 199), (37, 61), (56, 56), (57, 55), (28, 900), (640, 13)]
)
def test_images_of_odd_sizes_become_the_same_patches(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    require_same_patches(pixels, recipe(low=28**2, high=28**2 * 20))


def test_grey_and_transparent_images_become_the_same_patches(photos, tmp_path):
    with Image.open(photos[0]) as photo:
        for mode in ("L", "RGBA", "P"):
            photo.resize((60, 50)).convert(mode).save(tmp_path / f"{mode}.png")
            require_same_patches(tmp_path / f"{mode}.png", recipe(4))


@given(SIDES, SIDES, st.sampled_from([2, 4, 14, 16]), st.integers(1, 3), SIDES, SIDES)
def test_an_image_is_resized_to_the_size_of_transformers(height, width, patch, merge, low, high):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    made = recipe(patch, merge, low=min(low, high) * 10, high=max(low, high) * 1000)
    try:
        theirs = smart_resize(height, width, patch * merge, made.min_pixels, made.max_pixels)
    except ValueError:
        with pytest.raises(UsageError, match="too long and thin"):
            fitted(height, width, made)
        return
    assert fitted(height, width, made) == theirs


@pytest.fixture(scope="module")
def rope_index(vision_source):
    """``get_rope_index`` of the source, which reads its configuration and no weight."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(vision_source)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    return model.model.get_rope_index


@pytest.mark.parametrize(
    "layout",
    [
        [5],
        [(2, 2)],
        [3, (4, 6), 1],
        [(6, 2), 4],
        [1, (2, 4), 2, (8, 2), 2, (2, 2), 7],
    ],
)
def test_positions_are_those_of_the_source(rope_index, layout):
    """Numbers are so much text, pairs are the grids of images."""
    grids = [np.array([1, *size]) for size in layout if not isinstance(size, int)]
    counts = [
        (0, size) if isinstance(size, int) else (1, size[0] * size[1] // 4) for size in layout
    ]
    kinds = [kind for kind, count in counts for _ in range(count)]
    theirs, _ = rope_index(
        torch.tensor([kinds]),
        torch.tensor([kinds]),
        torch.tensor(np.stack(grids)) if grids else None,
    )
    assert np.array_equal(mrope_positions(kinds, 1, grids, 2), theirs.numpy())


def test_plain_positions_follow_one_another():
    assert plain_positions(3, 4).tolist() == [[3, 4, 5, 6]]


def test_features_of_more_images_than_there_are_have_no_positions():
    with pytest.raises(UsageError, match="features of more images than 0"):
        mrope_positions([5, 1, 1], 1, [], 2)
