"""What differs between families of vision-language models, as data.

A family is what a Transformers ``config.json`` calls ``model_type``.  That a record is right for a
model is shown when it is loaded: the parts are run beside the whole.  Facts from the families' own
code in Transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Images of any shape: the patches of all of them in one axis, with a grid for each image."""

    tower: str = "visual"
    """The module of the model that takes patches and grids."""

    projector: tuple[str, ...] = ()
    """The modules behind it, in turn, where the tower's features are not those of the text."""

    joins_times: bool = False
    """Whether the projector joins features of two times; of an image, each with itself."""

    features: Literal["pooler_output", "last_hidden_state"] = "pooler_output"
    """Which of the tower's outputs goes on."""

    fit: Literal["area", "shrink", "canvas", "edge", "shape", "count", "pad"] = "area"
    """How an image becomes whole patches, as in ``dialogue.PatchRecipe``."""

    order: Literal["blocks", "rows"] = "blocks"
    """``blocks``: patches that become one feature follow one another; ``rows``: as in the image."""

    patch: Literal["flat", "square", "times"] = "flat"
    """``flat``: a row of numbers, of each channel the times it is repeated; ``times``: of each time
    the channels; ``square``: ``[channels, height, width]``."""

    cut: bool = False
    """Whether the source takes whole images, padded to the largest, and the size of each."""

    newline: bool = False
    """Whether a feature stands behind those of each row of an image."""

    in_front: Literal["registers", "class"] | None = None
    """Rows of the tower's own before the patches of each image: ``registers``, with classes, in
    C-RADIO; ``class``, one alone, in Inkling 2."""

    position_axes: int = 2
    """Of a patch in the tower: height and width, and 3 where time comes before them."""

    resample: Literal["bicubic"] | None = None
    """How the processor resizes whatever its setting says, where it does not read that."""

    limits_count_time: bool = False
    """Whether the processor's limits of pixels count an image as often as a patch repeats it."""

    turned_table: bool = False
    """Whether each image reads the tower's table of positions in the order of patches that it would
    have with height and width exchanged."""

    deepstack: bool = False
    """Whether the first layers of the decoder add features of the tower's inner layers."""


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Pieces of one size, another than that of tiles, that an image is also cut into."""

    fit: Literal["grid", "window"]
    """How, as in ``dialogue.CropRecipe``."""

    side: str
    """What the family's processor calls the side of a piece."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Images as tiles of one size, ``[tiles, channels, height, width]``."""

    fit: Literal["whole", "aspect", "scale", "corner", "middle", "cells"]
    """How an image becomes tiles, as in ``dialogue.TileRecipe``; ``cells``: it is laid out in tiles
    of one feature ``[tiles, time, height, width, channels]``, as in ``dialogue.PatchRecipe``."""

    masked: bool = False
    """Whether the model is told which pixels are of the image, and which are around it."""

    tower_and_projector: tuple[str, str] | None = None
    """The modules that tiles pass through, where ``get_image_features`` of the model would loop
    over the tiles."""

    separator: str | None = None
    """The model's row that stands behind those of each tile."""

    row_end: str | None = None
    """The model's row that stands behind each row of a tile's features, and behind each that runs
    across the pieces of an image: these are then read as one picture."""

    crops: Crops | None = None
    unread: tuple[str, ...] = ()
    """Modules of the model that run although nothing reads what they give; they are left out."""


@dataclass(frozen=True, kw_only=True)
class Padded:
    """Images of any shape: patches ``[images, patches, numbers]`` with a place in the image each.

    A patch at ``(-1, -1)`` is padding.
    """

    tower: str
    """The module of the model that takes patches and places, and averages squares of patches."""

    projector: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the parts of one family are put together."""

    positions: Literal["plain", "mrope"]
    """``mrope``: three positions for each token, time, height and width (Qwen2-VL, section 2.1)."""

    images: Packed | Tiles | Padded

    image_tokens: tuple[str, ...] = ()
    """The tokens, by their names in the configuration, that the decoder is told are of an image;
    none where it makes no difference to it."""


@dataclass(frozen=True, kw_only=True)
class Enclosing:
    """A model that holds one of a family, which is exported, beside others, which are not."""

    within: str
    """Its name: of its tensors with a point, of its configuration with ``_config`` behind it."""

    family: str
    left_out: Mapping[str, str]
    """The others by name, each with the reason."""


FAMILIES: Mapping[str, Family] = {
    "aria": Family(
        positions="plain",
        images=Tiles(fit="corner", masked=True, unread=("vision_tower.post_layernorm",)),
    ),
    "deepseek_ocr2": Family(
        positions="plain",
        images=Tiles(
            fit="middle",
            tower_and_projector=("vision_tower", "multi_modal_projector"),
            separator="view_separator",
            crops=Crops(fit="grid", side="tile_size"),
        ),
    ),
    "dots3_note": Family(positions="plain", images=Packed(tower="vision_tower")),
    "ernie4_5_vl_moe": Family(
        positions="mrope",
        images=Packed(
            tower="vision_tower",
            projector=("resampler_model",),
            joins_times=True,
            features="last_hidden_state",
        ),
        image_tokens=("image_token_id", "image_start_token_id", "image_end_token_id"),
    ),
    "gemma4": Family(
        positions="plain",
        images=Padded(tower="vision_tower", projector="embed_vision"),
        image_tokens=("image_token_id",),
    ),
    "glm46v": Family(positions="mrope", images=Packed(limits_count_time=True)),
    "glm4v_moe": Family(positions="mrope", images=Packed(limits_count_time=True)),
    "glm5_next": Family(positions="plain", images=Packed(fit="canvas")),
    "hy_v4_vl": Family(
        positions="mrope",
        images=Packed(tower="vision_tower", order="rows", newline=True, resample="bicubic"),
    ),
    "inkling_mm_model": Family(positions="plain", images=Tiles(fit="cells")),
    "inkling2": Family(
        positions="plain", images=Packed(tower="vision_tower", fit="pad", in_front="class")
    ),
    "inkling2_loop": Family(
        positions="plain", images=Packed(tower="vision_tower", fit="pad", in_front="class")
    ),
    "internvl": Family(positions="plain", images=Tiles(fit="aspect")),
    "kimi_k25": Family(
        positions="plain",
        images=Packed(
            tower="vision_tower",
            projector=("mm_projector",),
            fit="shrink",
            order="rows",
            patch="square",
        ),
    ),
    "llama4": Family(
        positions="plain",
        images=Tiles(fit="scale", tower_and_projector=("vision_model", "multi_modal_projector")),
    ),
    "minimax_m3_vl": Family(
        positions="plain",
        images=Packed(
            tower="vision_tower",
            projector=("multi_modal_projector",),
            features="last_hidden_state",
            position_axes=3,
        ),
    ),
    "mistral3": Family(
        positions="plain",
        images=Packed(
            tower="vision_tower",
            projector=("multi_modal_projector",),
            fit="edge",
            order="rows",
            patch="square",
            cut=True,
        ),
    ),
    "mistral_large4": Family(
        positions="plain",
        images=Packed(
            tower="vision_tower",
            projector=("multi_modal_projector",),
            fit="edge",
            order="rows",
            patch="square",
            cut=True,
        ),
    ),
    "muse_spark": Family(
        positions="plain",
        images=Packed(
            tower="vision_tower",
            projector=("vision_adapter", "vision_projection", "perception_emb_norm"),
            features="last_hidden_state",
            fit="shape",
            order="rows",
            patch="times",
            turned_table=True,
        ),
    ),
    "nemotron_h_omni": Family(
        positions="plain",
        images=Packed(
            tower="vision_model",
            projector=("multi_modal_projector",),
            fit="count",
            order="rows",
            in_front="registers",
        ),
    ),
    "qwen3_5_moe": Family(positions="mrope", images=Packed()),
    "qwen3_omni_moe_thinker": Family(positions="mrope", images=Packed(deepstack=True)),
    "qwen4_exp": Family(positions="mrope", images=Packed()),
    "qwen3_vl_moe": Family(positions="mrope", images=Packed(deepstack=True)),
    "step3p7": Family(
        positions="plain",
        images=Tiles(
            fit="whole",
            tower_and_projector=("vision_model", "multi_modal_projector"),
            crops=Crops(fit="window", side="patch_size"),
        ),
    ),
    "unlimited_ocr": Family(
        positions="plain",
        images=Tiles(
            fit="middle",
            tower_and_projector=("vision_tower", "multi_modal_projector"),
            separator="view_separator",
            row_end="image_newline",
            crops=Crops(fit="grid", side="tile_size"),
        ),
    ),
}
"""By ``model_type``."""

ENCLOSING: Mapping[str, Enclosing] = {
    "qwen3_omni_moe": Enclosing(
        within="thinker",
        family="qwen3_omni_moe_thinker",
        left_out={
            "talker": "it says the thinker's text aloud, and a bundle answers in text",
            "code2wav": "it makes sound of what the talker says",
        },
    ),
}
"""By ``model_type``."""

OUT_OF_REACH: Mapping[str, str] = {
    "diffusion_gemma": "it does not write token by token: it draws a block of tokens that all see"
    " one another, and refines it in many steps, while a bundle's decoder gives the next token"
    " behind a cache",
}
"""By ``model_type``, why a family is refused that no record can describe."""
