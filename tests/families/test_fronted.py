"""Towers with rows of their own before each image: features are those of the source."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from moe_export.load.pretrained.examples import Examples
from moe_export.load.pretrained.fronted import ClassVision, RegisterVision
from moe_export.load.pretrained.grids import Grid
from moe_export.load.pretrained.parts import core_of
from moe_export.moe.families import FAMILIES, Packed

from .catalogue import Case

# Smaller than the tables of positions, as large in one direction, and larger.
SHAPES = [[(1, 1)], [(1, 1), (2, 4), (3, 1)], [(7, 5), (1, 6)]]


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("nemotron_h_omni", RegisterVision),
        ("inkling2", ClassVision),
        ("inkling2_loop", ClassVision),
    ],
)
def test_features_of_images_of_any_shape_are_those_of_the_source(family, kind, tmp_path):
    images = FAMILIES[family].images
    assert isinstance(images, Packed)
    model = Case(family, "vision").save(tmp_path)
    examples = Examples(model, images)
    several = [examples.seen(shapes) for shapes in SHAPES]
    with torch.no_grad():  # before the parts take the source's modules
        told = [core_of(model).get_image_features(**examples.as_source(x)) for x in several]
    vision = kind(model, images).eval()
    for shapes, seen, made in zip(SHAPES, several, told, strict=True):
        expected, found = torch.cat(made.pooler_output), vision.run(seen)["image_embeds"]
        assert found.shape == expected.shape == (sum(r * c for r, c in shapes), 64)
        # Other orders of the same float32 sums, through two layers and three products.
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), shapes


def test_rows_stand_before_the_patches_of_each_image():
    images = Packed(order="rows")
    grid = Grid(torch.tensor([[1, 1, 2], [1, 3, 1]]), 5, 1, images)
    row, place, ends = grid.behind(2)
    assert row.tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6]
    assert place.tolist() == [2, 3, 6, 7, 8]
    assert ends.tolist() == [4, 9]
