"""Inkling 2's processor resizes nothing: what is around an image, and behind it, is its own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

from moe_export.dialogue import PatchRecipe
from moe_export.load.pretrained.sameness import patches_of_squares
from moe_export.runtime.patches import patches_of

RECIPE = PatchRecipe(
    token="<i>",  # noqa: S106 - of an image
    token_id=1,
    rescale_factor=1 / 255,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    patch_size=20,
    temporal_patch_size=1,
    merge_size=2,
    min_pixels=1,
    max_pixels=2**26,
    fit="pad",
)
# Two numbers around 1, each rounded thrice and divided by a half.
TOLERANCE = 6 * np.finfo(np.float32).eps


def squares(seen) -> np.ndarray:
    """Patches of one channel as ``[features, 40, 40]``."""
    laid = seen.inputs["pixel_values"].reshape(-1, 2, 2, 3, 20, 20)[:, :, :, 0]
    return laid.transpose(0, 1, 3, 2, 4).reshape(-1, 40, 40)


def test_an_image_keeps_its_size_and_has_less_than_black_around_it():
    seen = patches_of(np.full((41, 80, 3), 255, np.uint8), RECIPE)
    assert seen.grid.tolist() == [1, 4, 4]
    assert seen.text == "<i>" * 4
    above, below = squares(seen)[:2], squares(seen)[2:]
    assert (above == 1.0).all()
    assert (below[:, 0] == 1.0).all()
    assert np.abs(below[:, 1:] - (-1 / 255 * 2 - 1)).max() <= TOLERANCE


def test_what_is_transparent_lies_over_chequers(tmp_path):
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    picture.putpixel((0, 0), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 51))
    picture.save(tmp_path / "x.png")
    bytes_of = np.rint((squares(patches_of(tmp_path / "x.png", RECIPE))[0] + 1) * 127.5)
    assert bytes_of[0, :3].tolist() == [255, (255 * 51 + 204 * 204 + 127) // 255, 204]
    assert [bytes_of[row, column] for row, column in ((7, 7), (7, 8), (8, 7), (8, 8))] == [
        204,
        153,
        153,
        204,
    ]


def require_same(picture: Image.Image, image) -> None:
    import transformers

    made = transformers.Inkling2ImageProcessor()(images=[picture], return_tensors="np")
    theirs = patches_of_squares(made["pixel_values"], made["image_grid_thw"], RECIPE)
    seen = patches_of(image, RECIPE)
    assert seen.inputs["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
    assert seen.features == made["image_grid_thw"].prod()
    apart = np.abs(seen.inputs["pixel_values"] - theirs["pixel_values"]).max()
    assert apart <= TOLERANCE


@pytest.mark.parametrize(
    "size", [(427, 640), (40, 80), (41, 39), (7, 5), (1100, 60), (33, 900)], ids=str
)
def test_photographs_become_the_patches_of_the_processor(size, photos):
    pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    for photo in photos:
        picture = Image.open(photo).convert("RGB").resize(size[::-1])
        require_same(picture, np.asarray(picture))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_transparent_photographs_become_the_patches_of_the_processor(mode, photos, tmp_path):
    pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    picture = Image.open(photos[0]).convert("RGB").resize((90, 70))
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture = picture.quantize() if mode == "P" else picture.convert(mode)
    path = tmp_path / "x.png"
    picture.save(path)
    require_same(Image.open(path), path)
