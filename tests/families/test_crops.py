"""How images are cut into pieces: as the families' own processors cut them, and in which order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moe_export.dialogue import CropRecipe, TileRecipe
from moe_export.errors import UsageError
from moe_export.runtime.crops import plan_of
from moe_export.runtime.seen import PIECES, side_by_side
from moe_export.runtime.tiles import tiles_of

WINDOW = CropRecipe(
    side=56,
    features=4,
    fit="window",
    largest=300,
    before="<a>",
    behind="<b>",
    between_rows="<r>",
)
GRID = CropRecipe(side=48, features=3, fit="grid", min_pieces=2, max_pieces=6)
RECIPE = TileRecipe(
    token="<i>",  # noqa: S106 - of an image
    token_id=1,
    resample="bilinear",
    rescale_factor=1.0,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    height=80,
    width=80,
    features=5,
    fit="whole",
    before_whole="<w>",
    crops=WINDOW,
)
SIZES = np.random.default_rng(5).integers(1, 400, (400, 2)).tolist()


def picture(height, width):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((80, 80), (0, 0)),
        ((80, 54), (0, 0)),
        ((80, 53), (2, 1)),  # more than 1.5 times as long: by its shorter side
        ((80, 40), (2, 1)),
        ((100, 100), (2, 2)),
        ((123, 124), (2, 3)),  # a rest of 11 is no more than a fifth of 56, one of 12 is
        ((200, 33), (6, 1)),
        ((900, 300), (6, 2)),  # shrunk to 300 x 100
        ((200, 20), (4, 4)),  # thin: on a square
    ],
)
def test_windows_are_laid_over_an_image(size, grid):
    assert plan_of(*size, RECIPE).grid == grid


def test_windows_are_those_of_the_processor():
    pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    from transformers import Step3p7ImageProcessor

    processor = Step3p7ImageProcessor(
        size={"height": 80, "width": 80}, patch_size=56, max_image_size=300
    )
    for height, width in SIZES:
        theirs = processor._plan_patches(width, height, 80, 56)
        plan = plan_of(height, width, RECIPE)
        assert (plan.square is not None) == theirs[5]
        assert plan.whole == theirs[0][::-1]
        assert plan.grid == (theirs[4], theirs[3])
        if theirs[2]:
            assert plan.canvas == theirs[1][::-1]
            assert max(plan.window) == theirs[2]


def test_grids_are_those_of_the_processor():
    pytest.importorskip("transformers")
    from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import (
        get_optimal_tiled_canvas,
    )

    recipe = replace(RECIPE, fit="middle", crops=GRID)
    for height, width in SIZES:
        columns, rows = get_optimal_tiled_canvas((height, width), (48, 48), 2, 6)
        cut = max(height, width) > 48
        assert plan_of(height, width, recipe).grid == ((rows, columns) if cut else (0, 0))


def test_pieces_come_row_by_row_before_the_whole():
    image = picture(100, 120)
    seen = tiles_of(image, RECIPE)
    stretched = np.asarray(Image.fromarray(image).resize((112, 112), Image.Resampling.BILINEAR))
    made = seen.inputs[PIECES].transpose(0, 2, 3, 1)
    assert np.array_equal(made[1], stretched[:56, 56:])
    assert np.array_equal(made[2], stretched[56:, :56])
    assert seen.inputs["pixel_values"].shape == (1, 3, 80, 80)
    assert seen.inputs["is_whole"].tolist() == [False] * 16 + [True] * 5
    row = ("<a>" + "<i>" * 4 + "<b>") * 2
    assert seen.text == f"{row}<r>{row}<w>" + "<i>" * 5
    assert seen.features == seen.text.count("<i>") == 21


def test_rows_of_joined_pieces_end_with_one_feature_more():
    crops = replace(GRID, features=9, joined=True)
    recipe = replace(RECIPE, fit="middle", before_whole="", crops=crops)
    seen = tiles_of(picture(100, 150), recipe)
    assert seen.inputs["piece_grid"].tolist() == [[2, 3]]
    # Two rows of pieces, in each three rows of nine features and an end.
    assert seen.inputs["is_whole"].tolist() == [False] * 2 * 3 * 10 + [True] * 5
    assert seen.features == seen.text.count("<i>") == 65
    whole = tiles_of(picture(40, 40), recipe)
    assert whole.inputs["piece_grid"].tolist() == [[0, 0]]
    assert side_by_side([whole, seen])["piece_grid"].tolist() == [[0, 0], [2, 3]]


def test_an_image_that_is_not_cut_has_no_pieces_and_a_graph_is_shown_one():
    whole = tiles_of(picture(60, 60), RECIPE)
    assert whole.inputs[PIECES].shape == (0, 3, 56, 56)
    assert whole.text == "<w>" + "<i>" * 5
    given = side_by_side([whole, whole])
    assert given[PIECES].shape == (1, 3, 56, 56)
    assert given["is_whole"].tolist() == [True] * 10
    mixed = side_by_side([whole, tiles_of(picture(100, 100), RECIPE)])
    assert mixed[PIECES].shape == (4, 3, 56, 56)


@pytest.mark.parametrize(
    "wrong",
    [
        {"side": 0},
        {"features": 2**17},
        {"min_pieces": 3, "max_pieces": 2},
        {"largest": 2**14},
        {"before": "<i>"},
        {"joined": True},
        {"joined": True, "before": "", "behind": "", "between_rows": "", "features": 5},
    ],
)
def test_a_recipe_of_impossible_pieces_is_refused(wrong):
    with pytest.raises(ValueError, match=r"pieces|token"):
        replace(RECIPE, crops=replace(WINDOW, **wrong))


def test_pieces_belong_to_one_tile():
    with pytest.raises(ValueError, match="one square tile"):
        replace(RECIPE, fit="aspect", max_tiles=4)


def test_an_image_of_which_nothing_would_be_left_is_refused():
    recipe = replace(RECIPE, fit="middle", crops=None)
    with pytest.raises(UsageError, match="1 x 5000 pixels, which is too long and thin"):
        tiles_of(picture(1, 5000), recipe)


@pytest.mark.parametrize("size", [(32, 120_000), (9000, 1)])
def test_an_image_too_thin_for_pieces_is_refused(size):
    with pytest.raises(UsageError, match="too long and thin"):
        plan_of(*size, RECIPE)


def test_a_limit_that_no_image_keeps_is_refused():
    with pytest.raises(ValueError, match="less than 1"):
        replace(WINDOW, largest=0)
