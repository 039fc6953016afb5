"""The part of a vision-language model that sees: from what an image processor makes to features."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moe_export.load.pretrained import attention
from moe_export.load.pretrained.grids import Grid, Table, merge_of
from moe_export.load.pretrained.parts import Part
from moe_export.load.pretrained.rotations import in_real_numbers
from moe_export.moe.families import Packed, Padded, Tiles


class TileVision(Part):
    """``pixel_values [tiles, channels, height, width]`` to ``image_embeds [rows, H]``.

    With ``pixel_mask [tiles, height, width]``, true where a pixel is of the image, where the
    family has it.
    """

    def __init__(self, source: nn.Module, images: Tiles) -> None:
        super().__init__(source)
        self.images = images
        for path in images.unread:
            self.core.set_submodule(path, nn.Identity())

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        with in_real_numbers(), _BucketsCounted():
            made = features_of_tiles(self.core, self.images, pixel_values, pixel_mask)
            return {"image_embeds": made}


class CroppedVision(TileVision):
    """The same, with ``pixel_values_local [pieces, channels, side, side]`` of these images.

    ``is_whole [rows]`` says of each feature, in order, whether it is the next of the tiles', else
    it is the next of the pieces'.  Pieces behind the last that is asked for are not read.
    """

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor, pixel_values_local: Tensor, is_whole: Tensor
    ) -> dict[str, Tensor]:
        pieces = features_of_pieces(self.core, self.images, pixel_values_local)
        tiles = features_of_tiles(self.core, self.images, pixel_values)
        of_piece, of_tile = ((~is_whole).long().cumsum(0) - 1, is_whole.long().cumsum(0) - 1)
        row = torch.where(is_whole, of_tile + pieces.shape[0], of_piece)
        return {"image_embeds": torch.cat([pieces, tiles])[row]}


class JoinedVision(CroppedVision):
    """The same for pieces that are read as one picture, ``piece_grid [tiles, 2]`` of each image.

    That is how many rows and columns of pieces it has, zeros where it has none.  A row of features
    runs across the pieces of a row, and ends with one of the model's own.
    """

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        pixel_values_local: Tensor,
        is_whole: Tensor,
        piece_grid: Tensor,
    ) -> dict[str, Tensor]:
        pieces = features_of_pieces(self.core, self.images, pixel_values_local)
        tiles = features_of_tiles(self.core, self.images, pixel_values)
        end = getattr(self.core, str(self.images.row_end))[None]
        side = math.isqrt(pieces.shape[0] // pixel_values_local.shape[0])
        of_tile = is_whole.long().cumsum(0)
        image = torch.where(is_whole, of_tile - 1, of_tile) // (
            tiles.shape[0] // pixel_values.shape[0]
        )
        of_piece = _row_of_piece((~is_whole).long().cumsum(0) - 1, image, piece_grid, side)
        ends = pieces.shape[0] + tiles.shape[0]
        of_piece = torch.where(of_piece < 0, ends, of_piece)
        row = torch.where(is_whole, of_tile - 1 + pieces.shape[0], of_piece)
        return {"image_embeds": torch.cat([pieces, tiles, end])[row]}


def _row_of_piece(place: Tensor, image: Tensor, grid: Tensor, side: int) -> Tensor:
    """Which feature of all pieces stands at each ``place [rows]``, -1 where a row ends.

    Places are counted over all images; pieces have ``side x side`` features each, row by row.
    """
    wide = grid[:, 1] * side + 1
    counts = grid[:, 0] * side * wide
    before = counts.cumsum(0) - counts
    pieces_before = grid.prod(-1).cumsum(0) - grid.prod(-1)
    within = place - before[image]
    row, column = within // wide[image], within % wide[image]
    piece = pieces_before[image] + row // side * grid[:, 1][image] + column // side
    inner = row % side * side + column % side
    return torch.where(column == wide[image] - 1, -1, piece * side**2 + inner)


class _BucketsCounted(TorchFunctionMode):
    """``torch.bucketize`` with ``right``: how many boundaries a number has reached.

    The search that PyTorch makes of it in graphs reads behind the last boundary.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.bucketize and (kwargs or {}).get("right"):
            numbers, boundaries = args
            return (numbers.unsqueeze(-1) >= boundaries).sum(-1)
        return func(*args, **(kwargs or {}))


def features_of_tiles(
    model: Any, images: Tiles, pixel_values: Tensor, pixel_mask: Tensor | None = None
) -> Tensor:
    """``[rows, H]``, those of each tile one after the other."""
    if images.tower_and_projector is not None:
        projected = _projected(model, images, pixel_values)
        if images.row_end is not None:
            projected = _with_row_ends(projected, getattr(model, images.row_end))
        if images.separator is not None:
            row = getattr(model, images.separator).expand(projected.shape[0], 1, -1)
            projected = torch.cat([projected, row], dim=1)
        return projected.flatten(0, -2)
    given = {"pixel_mask": pixel_mask} if images.masked else {}
    made = model.get_image_features(pixel_values, return_dict=True, **given).pooler_output
    features: Tensor = made if isinstance(made, Tensor) else torch.cat(list(made))
    return features.flatten(0, -2)


def features_of_pieces(model: Any, images: Tiles, pixel_values: Tensor) -> Tensor:
    """``[rows, H]``, those of each piece one after the other, and nothing behind them."""
    return _projected(model, images, pixel_values).flatten(0, -2)


def _with_row_ends(features: Tensor, end: Tensor) -> Tensor:
    """Squares of features ``[tiles, side * side, H]`` with one more behind each row of them."""
    tiles, count, size = features.shape
    side = math.isqrt(count)
    rows = features.reshape(tiles, side, side, size)
    return torch.cat([rows, end.expand(tiles, side, 1, size)], dim=2).flatten(1, 2)


def _projected(model: Any, images: Tiles, pixel_values: Tensor) -> Tensor:
    """What tower and projector make of tiles of any one size: ``[tiles, rows, H]``."""
    if images.tower_and_projector is None:
        raise AssertionError("a record whose tiles pass through no tower and projector")
    tower, projector = (getattr(model, name) for name in images.tower_and_projector)
    made: Tensor = projector(tower(pixel_values).last_hidden_state)
    return made


class PackedVision(Part):
    """``pixel_values [patches, ...]``, ``image_grid_thw [images, 3]`` to features.

    ``merge x merge`` patches become one row of ``image_embeds [rows, H]``; ``deepstack [layers,
    rows, H]``, where the family has it, is what the first decoder layers get beside it.
    """

    def __init__(self, source: nn.Module, images: Packed) -> None:
        super().__init__(source)
        self.images = images
        attention.register()
        self.tower.config._attn_implementation = attention.SEGMENTS
        for name in images.projector if images.joins_times else ():
            getattr(self.core, name)._temporal_slicing = _with_itself

    @property
    def tower(self) -> Any:
        """What takes patches and grids."""
        return getattr(self.core, self.images.tower)

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        grid = Grid(image_grid_thw, pixel_values.shape[0], merge_of(self.config), self.images)
        made = self.tower(
            pixel_values,
            image_grid_thw,
            position_ids=grid.position_ids(),
            cu_seqlens=F.pad(grid.ends, (1, 0)),
            max_seqlen=1,  # for kernels that reserve memory; ours does not
            **self._resampling(image_grid_thw, grid),
            **self._windows(grid),
            **(grid.merging() if self.images.order == "rows" else {}),
        )
        features = made.pooler_output
        if self.images.features == "last_hidden_state":
            features = made.last_hidden_state.flatten(0, -2)
        for name in self.images.projector:
            given = (features, image_grid_thw) if self.images.joins_times else (features,)
            features = getattr(self.core, name)(*given)
        outputs = {"image_embeds": features.flatten(0, -2)}
        if self.images.deepstack:
            outputs["deepstack"] = torch.stack(list(made.deepstack_features))
        return outputs

    def _resampling(self, thw: Tensor, grid: Grid) -> dict[str, Tensor]:
        """How each patch reads the tower's table of positions, if there is one."""
        if self.images.turned_table:
            grid = Grid(thw[:, [0, 2, 1]], grid.patches, 1, self.images)
        for module in self.tower.modules():
            if hasattr(module, "interpolation_mode"):
                table = Table(
                    module.num_grid_per_side,
                    module.interpolation_mode,
                    corners=module.interpolation_align_corners,
                    zeros=getattr(module, "interpolation_padding", "border") == "zeros",
                )
                return grid.interpolation(table)
        return {}

    def _windows(self, grid: Grid) -> dict[str, Tensor]:
        """The patches of each window in turn, where some layers of the tower look no further."""
        size = getattr(self.tower, "window_size", None)
        return {} if size is None else grid.windows(size // self.tower.patch_size)


def _with_itself(features: Tensor, _: Tensor) -> Tensor:
    """What a projector makes of an image's two times, of which it has one."""
    return torch.cat([features, features], dim=-1)


class PaddedVision(Part):
    """``pixel_values [images, patches, numbers]`` and each patch's place to features.

    ``image_position_ids [images, patches, 2]`` are column and row, -1 where a patch is padding.
    Squares of patches become one row of ``image_embeds [rows, H]``, padding none.
    """

    def __init__(self, source: nn.Module, images: Padded) -> None:
        super().__init__(source)
        self.images = images
        tower = getattr(self.core, images.tower)
        tower.pooler._avg_pool_by_positions = _Squares(tower.config.pooling_kernel_size)

    def forward(self, pixel_values: Tensor, image_position_ids: Tensor) -> dict[str, Tensor]:
        tower, projector = (
            getattr(self.core, name) for name in (self.images.tower, self.images.projector)
        )
        made = tower(pixel_values, pixel_position_ids=image_position_ids)
        return {"image_embeds": projector(made.last_hidden_state)}


class _Squares:
    """The mean of each square of patches, and which squares an image has.

    What the source computes, but for its side: that follows there from the number of patches.
    """

    def __init__(self, side: int) -> None:
        self._side = side

    def __call__(self, hidden: Tensor, places: Tensor, squares: int) -> tuple[Tensor, Tensor]:
        column, row = places.clamp(min=0).unbind(-1)
        wide = (column.max(dim=-1, keepdim=True).values + 1) // self._side
        square = column // self._side + wide * (row // self._side)
        # Padding holds zeros: it adds nothing to the first square.
        is_of = (square[:, None, :] == torch.arange(squares)[:, None]).to(hidden.dtype)
        return is_of @ hidden / self._side**2, is_of.any(-1)


def tile_size(config: Any) -> tuple[int, int]:
    """Height and width of the tiles that a family of one size takes."""
    vision = config.vision_config
    holder = getattr(vision, "sam_config", vision)
    side = getattr(holder, "image_size", None) or holder.patch_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return int(height), int(width)
