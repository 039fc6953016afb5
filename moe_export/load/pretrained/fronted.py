"""Towers with rows of their own in front of each image's patches, run on those of all at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_export.load.pretrained.grids import Grid, Table, merge_of
from moe_export.load.pretrained.vision import PackedVision


class RegisterVision(PackedVision):
    """Packed patches to features of a tower that has classes and registers before each image.

    C-RADIO: what its table of positions has for an image is cut from what it has for a square.
    """

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        core, tower, merge = self.core, self.tower, merge_of(self.config)
        grid = Grid(image_grid_thw, pixel_values.shape[0], merge, self.images)
        source = tower.embeddings
        table = Table(source.max_rows, "bilinear", corners=False, square=True)
        patches = source.patch_projection(pixel_values)
        patches = patches + _read(source.position_embedding[0], grid, table)
        own = source.cls_register_token
        row, place, ends = grid.behind(own.shape[0])
        hidden = torch.cat([own, patches])[row][None]
        for layer in tower.encoder.layer:
            hidden = layer(hidden, cu_seqlens=F.pad(ends, (1, 0)), max_seqlen=1)
        made = hidden[0, place]
        norm = getattr(core, "vision_final_layernorm", None)
        if norm is not None:
            made = norm(made)
        joined = made[grid.in_blocks()].reshape(-1, merge**2 * made.shape[-1])
        return {"image_embeds": getattr(core, self.images.projector[0])(joined)}


class ClassVision(PackedVision):
    """Packed patches to features of a tower that has a class before each image.

    Patches count their rows and columns from one, and a class stands at zero.
    """

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        tower, merge = self.tower, merge_of(self.config)
        grid = Grid(image_grid_thw, pixel_values.shape[0], merge, self.images)
        source = tower.embeddings
        side = source.patch_size
        # The source has the channels of each pixel behind one another.
        pixels = pixel_values.view(pixel_values.shape[0], -1, side, side).permute(0, 2, 3, 1)
        table = Table(source.grid_size, "bilinear", corners=False)
        patches = source.patch_embedding(pixels.flatten(1))
        patches = patches + _read(source.position_embedding.weight, grid, table)
        own = (source.class_embedding + source.cls_position_embedding)[None]
        row, place, ends = grid.behind(1)
        hidden = tower.pre_layernorm(torch.cat([own, patches])[row])
        positions = F.pad(grid.position_ids() + 1, (0, 0, 1, 0))[row]
        turns = tower.rotary_emb(hidden, positions)
        for layer in tower.layers:
            hidden = layer(
                hidden, cu_seqlens=F.pad(ends, (1, 0)), position_embeddings=turns, max_seqlen=1
            )
        joined = hidden[place].reshape(-1, merge**2 * hidden.shape[-1])
        return {"image_embeds": tower.merger(joined)}


def _read(entries: Tensor, grid: Grid, table: Table) -> Tensor:
    """What a table ``[side * side, H]`` has for each patch, ``[patches, H]``."""
    read = grid.interpolation(table)
    made: Tensor = (entries[read["interp_indices"]] * read["interp_weights"][..., None]).sum(dim=1)
    return made
