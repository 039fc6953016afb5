"""Where the patches of packed images lie, and what a tower is told of it, without a loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_export.moe.families import Packed

# Distances of a table's entries from a place between them, for each way to resample.
_TAPS = {"bilinear": (0, 1), "bicubic": (-1, 0, 1, 2)}


@dataclass(frozen=True)
class Table:
    """A table of ``side x side`` positions, and how it is read between its entries.

    With ``corners`` the first and last place of an image are the first and last entry; else both
    have the same edges.  What lies outside is ``zeros``, or like the nearest entry.

    An image counts as ``wider`` than it is by that part of a patch, and as much taller; but not
    along a side as long as the table's, which PyTorch copies where it resamples linearly.

    With ``square`` an image reads as much of the table as the square around it would.
    """

    side: int
    mode: str
    corners: bool
    zeros: bool = False
    wider: float = 0.0
    square: bool = False


def merge_of(config: Any) -> int:
    """How many patches in a row, and how many of these rows, become one feature."""
    for holder in (config.vision_config, config):
        for name in ("spatial_merge_size", "pooling_kernel_size", "merge_size"):
            if getattr(holder, name, None):
                return int(getattr(holder, name))
    if getattr(config, "downsample_ratio", None):
        return round(1 / float(config.downsample_ratio))
    return int(config.vision_config.merge_kernel_size[0])


def times_of(config: Any) -> int:
    """How often a patch of an image is repeated, as if the image were a video."""
    vision = config.vision_config
    return int(getattr(vision, "temporal_patch_size", getattr(vision, "patch_temporal", 1)))


class Grid:
    """Where each patch lies in its image, without a loop: ``row`` and ``column [patches]``."""

    def __init__(self, thw: Tensor, patches: int, merge: int, images: Packed) -> None:
        self._merge, self._axes, self.patches = merge, images.position_axes, patches
        sizes = thw.prod(dim=-1)
        self.ends = sizes.cumsum(0)
        place = torch.arange(patches)
        image = (place[:, None] >= self.ends[None, :]).sum(-1)
        self._height, self._width = thw[:, 1][image], thw[:, 2][image]
        self._start = (self.ends - sizes)[image]
        self._within = place - self._start
        self._image = image
        self.row, self.column = self._laid(merge if images.order == "blocks" else 1)

    def _laid(self, side: int) -> tuple[Tensor, Tensor]:
        """Row and column of each place, where blocks of ``side x side`` lie one after the other."""
        block, inner = self._within // side**2, self._within % side**2
        blocks = self._width // side
        return block // blocks * side + inner // side, block % blocks * side + inner % side

    def behind(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where patches lie if ``count`` rows, of all images the same, stand before each image's.

        For each place which row is there, of these and then all patches; for each patch its place;
        and where images end.
        """
        images = self.ends.shape[0]
        ends = self.ends + count * torch.arange(1, images + 1)
        place = torch.arange(self.patches + count * images)
        image = (place[:, None] >= ends[None, :]).sum(-1)
        within = place - F.pad(ends, (1, 0))[image]
        row = torch.where(within < count, within, place - count * image)
        return row, torch.arange(self.patches) + count * (self._image + 1), ends

    def position_ids(self) -> Tensor:
        """``[patches, axes]``: height and width, and before them a time of 0 where it counts."""
        axes = [torch.zeros_like(self.row)] * (self._axes - 2) + [self.row, self.column]
        return torch.stack(axes, dim=-1)

    def merging(self) -> dict[str, Any]:
        """Which place of which feature each patch goes to, for images of one time each."""
        merge = self._merge
        block = self.row // merge * (self._width // merge) + self.column // merge
        inner = self.row % merge * merge + self.column % merge
        weight = torch.ones(self.patches)
        place = self._start + block * merge**2 + inner
        return {
            "frame_index": torch.zeros_like(self.row),
            "temporal_merge_index": (place, weight, self.patches // merge**2),
            "pixel_shuffle_index": place.argsort(),
        }

    def in_blocks(self) -> Tensor:
        """``[patches]``: patches that lie row by row, those of one feature behind one another."""
        row, column = self._laid(self._merge)
        return self._start + row * self._width + column

    def ends_row(self) -> Tensor:
        """``[features]``: whether a feature is the last of its row."""
        _, column = self._laid(self._merge)
        first = column.view(-1, self._merge**2)[:, 0]
        return first + self._merge == self._width.view(-1, self._merge**2)[:, 0]

    def windows(self, side: int) -> dict[str, Tensor]:
        """The order of the patches window by window, of ``side x side`` or what the edges leave.

        And where windows end, once for each patch of one, which splits rows as once for all does.
        """
        above, before = self.row // side * side, self.column // side * side
        tall, wide = (self._height - above).clamp(max=side), (self._width - before).clamp(max=side)
        first = self._start + above * self._width + before * tall
        place = first + (self.row - above) * wide + self.column - before
        order = place.argsort()
        return {
            "window_index": order,
            "cu_window_seqlens": F.pad((first + tall * wide)[order], (1, 0)),
        }

    def interpolation(self, table: Table) -> dict[str, Tensor]:
        """Entries of the table for each patch, and their weights."""
        height, width = self._height, self._width
        if table.square:
            height = width = torch.maximum(height, width)
        rows, row_weights = _taps(self.row, _size(height, table), table)
        columns, column_weights = _taps(self.column, _size(width, table), table)
        indices = rows[:, :, None] * table.side + columns[:, None, :]
        weights = row_weights[:, :, None] * column_weights[:, None, :]
        return {"interp_indices": indices.flatten(1), "interp_weights": weights.flatten(1)}


def _size(side: Tensor, table: Table) -> Tensor:
    """As how many patches a side of an image counts."""
    if not table.wider:
        return side
    is_copied = (side == table.side) & (table.mode == "bilinear")
    return torch.where(is_copied, side, side + table.wider)


def _taps(place: Tensor, size: Tensor, table: Table) -> tuple[Tensor, Tensor]:
    """Entries ``[patches, taps]`` along one side of a table, and how much each counts."""
    last = table.side - 1
    if table.corners:
        exact = place.float() * last / (size - 1).clamp(min=1)
    else:
        exact = (place.float() + 0.5) * table.side / size - 0.5
    low = exact.floor()
    offsets = torch.tensor(_TAPS[table.mode])
    distance = (exact[:, None] - low[:, None] - offsets).abs()
    entries = low.long()[:, None] + offsets
    weights = 1 - distance if table.mode == "bilinear" else _cubic(distance)
    if table.zeros:
        weights = weights * ((entries >= 0) & (entries <= last))
    return entries.clamp(0, last), weights


def _cubic(x: Tensor) -> Tensor:
    """The weight at a distance of up to 2 (Keys 1981, equation 15, with a = -3/4)."""
    a = -0.75
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, inner, outer)
