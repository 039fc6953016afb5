"""Inputs for the parts of a Transformers model: tokens drawn at random, images of random patches.

What a graph is traced with and held against must reach prefill, decoding, padding, several
images and none.  Values come from the source's own code: embeddings from its table, caches from its
layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from moe_export.forms import Array
from moe_export.load.pretrained.grids import merge_of, times_of
from moe_export.load.pretrained.parts import FEATURE_AXES, Part, core_of
from moe_export.load.pretrained.placeholders import special_tokens
from moe_export.load.pretrained.vision import features_of_pieces, features_of_tiles, tile_size
from moe_export.moe.families import Packed, Padded, Tiles
from moe_export.runtime.seen import GRID, PIECES

Inputs = dict[str, Tensor]
Shape = tuple[int, int]

_SEED = 20


@dataclass(frozen=True, kw_only=True)
class PartInputs:
    """What one part is traced with, its axes that vary, and what else it is run on."""

    example: Inputs
    axes: dict[str, dict[int, str]]
    cases: dict[str, Inputs]
    modality: dict[str, Array] = field(default_factory=dict)
    """By case, what its tokens ``[B, S]`` are of, as ``MODALITIES`` counts."""


class Examples:
    """One source of random numbers, so that equal models get equal examples.

    Images of packed patches have so many ``rows x columns`` of features; tiles have them all alike.
    """

    def __init__(
        self,
        model: Any,
        images: Packed | Tiles | Padded | None = None,
        crop_side: int | None = None,
    ) -> None:
        self.config = model.config
        self._images, self._crop_side = images, crop_side
        self._generator = torch.Generator().manual_seed(_SEED)
        if isinstance(images, Tiles):
            core, tile = core_of(model), self._tiled([(1, 1)])
            with torch.no_grad():
                self._tile_features = features_of_tiles(core, images, **tile).shape[0]
                if crop_side is not None:
                    piece = torch.zeros(1, 3, crop_side, crop_side)
                    self._piece_features = features_of_pieces(core, images, piece).shape[0]

    def tokens(self, batch: int, length: int) -> Tensor:
        """Ids ``[batch, length]`` that mean nothing but text."""
        size = self.config.get_text_config().vocab_size
        special = special_tokens(self.config)
        plain = torch.tensor([i for i in range(min(size, 4096)) if i not in special])
        return plain[torch.randint(len(plain), (batch, length), generator=self._generator)]

    def prompt(self, shapes: list[Shape], length: int) -> Tensor:
        """Ids ``[1, S]``: ``length`` of text around the features of so many images."""
        text = iter(torch.split(self.tokens(1, length * (len(shapes) + 1)), length, dim=1))
        start = self._token("vision_start_token_id", "image_start_token_id")
        token = self._token("image_token_id")
        end = self._token("vision_end_token_id", "image_end_token_id")
        parts = [next(text)]
        for shape in shapes:
            parts += [start, token.expand(1, self.features(shape)), end, next(text)]
        return torch.cat(parts, dim=1)

    def _token(self, *names: str) -> Tensor:
        """``[1, 1]``, or ``[1, 0]`` where the configuration has no such token."""
        values = [getattr(self.config, name, None) for name in names]
        return torch.tensor([[i for i in values if i is not None][:1]], dtype=torch.int64)

    def features(self, shape: Shape) -> int:
        """How many rows an image becomes."""
        if not isinstance(self._images, Tiles):
            return shape[0] * (shape[1] + self._has_newline)
        return self._tile_features + self._features_of_pieces(shape)

    @property
    def _has_newline(self) -> bool:
        return isinstance(self._images, Packed) and self._images.newline

    def two_shapes(self) -> list[Shape]:
        """Of images that are not alike, and become as many rows."""
        return [(2, 3), (4, 1) if self._has_newline else (3, 2)]

    def _grid_of(self, shape: Shape) -> Shape:
        """Rows and columns of pieces: few for several rows, where the family cuts any."""
        if self._crop_side is None or shape[0] == 1:
            return 0, 0
        least, most = sorted(shape)
        return (min(least, 2), min(most, 3)) if self._is_joined else (least, 1)

    @property
    def _is_joined(self) -> bool:
        return isinstance(self._images, Tiles) and self._images.row_end is not None

    def _features_of_pieces(self, shape: Shape) -> int:
        rows, columns = self._grid_of(shape)
        if not rows:
            return 0
        ends = rows * math.isqrt(self._piece_features) if self._is_joined else 0
        return rows * columns * self._piece_features + ends

    def seen(self, shapes: list[Shape]) -> Inputs:
        """What ``vision`` takes for random images."""
        vision = self.config.vision_config
        if not isinstance(self._images, Packed | Padded):
            made = self._tiled(shapes)
            return made if self._crop_side is None else {**made, **self._cut(shapes)}
        merge = merge_of(self.config)
        if isinstance(self._images, Padded):
            return self._padded(shapes, merge)
        grid = torch.tensor([[1, rows * merge, columns * merge] for rows, columns in shapes])
        patch: tuple[int, ...] = (3, vision.patch_size, vision.patch_size)
        if self._images.patch != "square":
            patch = (math.prod(patch) * times_of(self.config),)
        count = int(grid.prod(dim=-1).sum())
        pixels = torch.randn(count, *patch, generator=self._generator)
        return {"pixel_values": pixels, "image_grid_thw": grid}

    def _tiled(self, shapes: list[Shape]) -> Inputs:
        """Tiles, filled from a corner as far as an image of each shape goes."""
        height, width = tile_size(self.config)
        size: tuple[int, ...] = (len(shapes), 3, height, width)
        if isinstance(self._images, Tiles) and self._images.fit == "cells":
            size = (len(shapes), self.config.vision_config.temporal_patch_size, height, width, 3)
        made = {"pixel_values": torch.randn(size, generator=self._generator)}
        if isinstance(self._images, Tiles) and self._images.masked:
            mask = torch.zeros(len(shapes), height, width, dtype=torch.bool)
            for image, (rows, columns) in enumerate(shapes):
                longer = max(rows, columns)
                mask[image, : height * rows // longer, : width * columns // longer] = True
            made["pixel_mask"] = mask
        return made

    def _cut(self, shapes: list[Shape]) -> Inputs:
        """Random pieces of the images, and which features are of their tiles."""
        side, counts = self._crop_side or 0, [self._features_of_pieces(each) for each in shapes]
        grids = torch.tensor([self._grid_of(each) for each in shapes])
        # One that nobody reads where none is cut, as the runtime has it.
        pieces = max(1, int(grids.prod(-1).sum()))
        whole = [torch.arange(count + self._tile_features) >= count for count in counts]
        made = {
            PIECES: torch.randn(pieces, 3, side, side, generator=self._generator),
            "is_whole": torch.cat(whole),
        }
        return {**made, GRID: grids} if self._is_joined else made

    def as_source(self, seen: Inputs) -> dict[str, Any]:
        """What ``vision`` takes as the whole model takes it."""
        if isinstance(self._images, Packed) and self._images.cut:
            return _uncut(**seen)
        if isinstance(self._images, Packed) and self._images.in_front == "registers":
            grid = seen["image_grid_thw"][:, 1:]
            return {"pixel_values": seen["pixel_values"], "image_grid_hw": grid}
        if isinstance(self._images, Packed) and self._images.in_front == "class":
            return _in_squares(**seen, merge=merge_of(self.config))
        if "is_whole" not in seen:
            return dict(seen)
        made: dict[str, Any] = {"pixel_values": seen["pixel_values"]}
        if GRID in seen:
            grids = seen[GRID]
            if int(grids.sum()):
                made[PIECES] = seen[PIECES]
            # Lists, columns first.
            made["num_local_patches"] = grids.prod(-1).tolist()
            return {**made, "patches_grid": grids.flip(-1).tolist()}
        ends = seen["is_whole"].nonzero().flatten()[:: self._tile_features]
        before = ends - torch.arange(len(ends)) * self._tile_features
        counts = before.diff(prepend=torch.zeros(1, dtype=torch.int64)) // self._piece_features
        if int(counts.sum()):
            made[PIECES] = seen[PIECES]
        return {**made, "num_local_patches": counts}

    def _padded(self, shapes: list[Shape], merge: int) -> Inputs:
        """Images with as many patches as the largest needs, and those of one more square."""
        sizes = [(rows * merge, columns * merge) for rows, columns in shapes]
        most = max(rows * columns for rows, columns in sizes) + merge**2
        numbers = 3 * self.config.vision_config.patch_size**2
        pixels = torch.zeros(len(sizes), most, numbers)
        places = torch.full((len(sizes), most, 2), -1)
        for image, (rows, columns) in enumerate(sizes):
            count = rows * columns
            pixels[image, :count] = torch.rand(count, numbers, generator=self._generator)
            place = torch.arange(count)
            places[image, :count] = torch.stack([place % columns, place // columns], dim=-1)
        return {"pixel_values": pixels, "image_position_ids": places}


def _uncut(pixel_values: Tensor, image_grid_thw: Tensor) -> Inputs:
    """Square patches, row by row, as whole images with nothing on the right and below."""
    side, (_, rows, columns) = pixel_values.shape[-1], image_grid_thw.amax(dim=0).tolist()
    whole = torch.zeros(len(image_grid_thw), 3, rows * side, columns * side)
    counts = image_grid_thw.prod(dim=-1).tolist()
    for image, patches in enumerate(torch.split(pixel_values, counts)):
        _, tall, wide = image_grid_thw[image].tolist()
        laid = patches.view(tall, wide, 3, side, side).permute(2, 0, 3, 1, 4)
        whole[image, :, : tall * side, : wide * side] = laid.reshape(3, tall * side, wide * side)
    return {"pixel_values": whole, "image_sizes": image_grid_thw[:, 1:] * side}


def _in_squares(pixel_values: Tensor, image_grid_thw: Tensor, merge: int) -> Inputs:
    """Flat patches as squares ``[features, height, width, channels]``, which the grid counts."""
    side = math.isqrt(pixel_values.shape[-1] // 3)
    laid = pixel_values.view(-1, merge, merge, 3, side, side).permute(0, 1, 4, 2, 5, 3)
    squares = laid.reshape(-1, merge * side, merge * side, 3)
    return {
        "pixel_values": squares,
        "image_grid_thw": image_grid_thw // torch.tensor([1, merge, merge]),
    }


def vision_inputs(examples: Examples, images: Packed | Tiles | Padded) -> PartInputs:
    """One, two and three images, of several shapes where they may differ."""
    example = examples.seen([(2, 3), (4, 2)])
    axes = {name: {0: "tiles"} for name in example}
    if PIECES in example:
        axes |= {PIECES: {0: "pieces"}, "is_whole": {0: "features"}}
    if isinstance(images, Packed):
        patches = f"{merge_of(examples.config) ** 2}*features"
        axes = {"pixel_values": {0: patches}, "image_grid_thw": {0: "images"}}
    if isinstance(images, Padded):
        places = {0: "images", 1: f"{merge_of(examples.config) ** 2}*squares"}
        axes = {"pixel_values": places, "image_position_ids": places}
    return PartInputs(
        example=example,
        axes=axes,
        cases={
            "one image": examples.seen([(3, 3)]),
            "three images": examples.seen([(1, 1), (2, 4), (3, 1)]),
        },
    )


def embed_inputs(examples: Examples, vision: Part) -> PartInputs:
    """An image in each prompt of a batch, several in one, and none."""

    def case(ids: Tensor, shapes: list[Shape]) -> Inputs:
        made = vision.run(examples.seen(shapes or [(1, 1)]))
        if not shapes:
            made = {name: x.narrow(FEATURE_AXES[name], 0, 0) for name, x in made.items()}
        return {"input_ids": ids, **made}

    shape = [(2, 2)]
    both = torch.cat([examples.prompt(shape, 3), examples.prompt(shape, 3)])
    several = [(2, 2), (1, 3)]
    example = case(both, shape * 2)
    features = {name: {FEATURE_AXES[name]: "features"} for name in example if name != "input_ids"}
    return PartInputs(
        example=example,
        axes={"input_ids": {0: "batch", 1: "sequence"}, **features},
        cases={
            "several images": case(examples.prompt(several, 2), several),
            "text alone": case(examples.tokens(2, 5), []),
        },
    )


def embed_text_inputs(examples: Examples) -> PartInputs:
    """Some tokens, and one."""
    return PartInputs(
        example={"input_ids": examples.tokens(2, 5)},
        axes={"input_ids": {0: "batch", 1: "sequence"}},
        cases={"one token": {"input_ids": examples.tokens(1, 1)}},
    )
