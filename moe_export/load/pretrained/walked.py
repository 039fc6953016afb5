"""Towers whose source walks over images one by one, run on the patches of all of them at once."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.load.pretrained.grids import Grid, Table, merge_of
from moe_export.load.pretrained.vision import PackedVision
from moe_export.moe.families import Packed


class LinedVision(PackedVision):
    """Packed patches to features, with the tower's newline behind those of each row of an image."""

    # By what part of a patch the source takes images to be larger when it resamples its table.
    _WIDER = 0.1

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        tower, merge = self.tower, merge_of(self.config)
        grid = Grid(image_grid_thw, pixel_values.shape[0], merge, self.images)
        hidden = (self._patches(pixel_values) + self._places(grid))[None]
        ends = F.pad(grid.ends, (1, 0))
        for layer in tower.layers:
            hidden = layer(hidden, attention_mask=None, cu_seqlens=ends, max_seqlen=1)
        # A square of patches is an image of one row: its feature comes with a newline.
        made = tower.patch_merger(hidden[:, grid.in_blocks()], size=(merge, merge))
        ends_row = grid.ends_row()
        is_kept = torch.stack([torch.ones_like(ends_row), ends_row], dim=-1)
        return {"image_embeds": made.flatten(0, 1)[is_kept.flatten()]}

    def _patches(self, pixel_values: Tensor) -> Tensor:
        """Flat patches ``[patches, numbers]`` as ``[patches, H]``."""
        embed = self.tower.embeddings.patch_embedding
        squares = pixel_values.view(-1, embed.in_channels, *embed.kernel_size)
        made: Tensor = embed(squares).flatten(1)
        return made

    def _places(self, grid: Grid) -> Tensor:
        """What the table has for each patch, ``[patches, H]``; its first entry is no place."""
        source = self.tower.embeddings
        mode = source.config.interpolate_mode
        read = grid.interpolation(
            Table(source.position_edge, mode, corners=False, wider=self._WIDER)
        )
        entries: Tensor = source.position_embedding(read["interp_indices"] + 1)
        return (entries * read["interp_weights"][..., None]).sum(dim=1)


class CutVision(PackedVision):
    """Packed patches of a source that takes whole images ``[images, 3, height, width]``, and sizes.

    Its tower embeds patches first, and its projector joins squares of them.
    """

    def __init__(self, source: nn.Module, images: Packed) -> None:
        super().__init__(source, images)
        merger: Any = self._projector.patch_merger
        kind: Any = type(merger)
        merger.__class__ = _joining(kind)

    @property
    def _projector(self) -> Any:
        return getattr(self.core, self.images.projector[0])

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        tower, merge = self.tower, merge_of(self.config)
        grid = Grid(image_grid_thw, pixel_values.shape[0], merge, self.images)
        hidden = tower.ln_pre(tower.patch_conv(pixel_values).flatten(1)[None])
        places = tower.patch_positional_embedding(hidden, grid.position_ids())
        ends, states = F.pad(grid.ends, (1, 0)), [hidden]
        for layer in tower.transformer.layers:
            made = layer(states[-1], None, position_embeddings=places, cu_seq_lens_q=ends)
            states.append(made)
        chosen = self.config.vision_feature_layer
        taken = [chosen] if isinstance(chosen, int) else chosen
        features = torch.cat([states[i] for i in taken], dim=-1)[0, grid.in_blocks()]
        return {"image_embeds": self._projector(features, (merge, merge))}


@cache
def _joining(merger: type[nn.Module]) -> type[nn.Module]:
    """The same class, for rows ``[patches, d]`` where those of a square follow one another."""

    def forward(self: Any, image_features: Tensor, sides: tuple[int, int]) -> Tensor:
        squares = image_features.view(-1, math.prod(sides), image_features.shape[-1])
        made: Tensor = self.merging_layer(squares.transpose(1, 2).flatten(1))
        return made

    return cast(type[nn.Module], type(merger.__name__, (merger,), {"forward": forward}))
