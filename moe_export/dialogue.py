"""How a bundle of several graphs is talked to: ``dialogue.json``, for its writer and its reader."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

FILE_NAME = "dialogue.json"

# Far above what any model takes, and below what would exhaust a memory.
MAX_PIXELS = 2**26
_MAX_TILES = 256
_MAX_FEATURES = 2**16


def _is_none(pixels: int | None) -> bool:
    """Whether a limit is one that no image keeps."""
    return pixels is not None and pixels < 1


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """What all families do with an image: resize it, make numbers of its bytes, name its features.

    ``y = (pixel * rescale_factor - mean) / std`` by channel, each step rounded to ``rounding``.
    """

    token: str
    """The text of one feature; an image has as many of it as features."""

    token_id: int
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    """How Pillow resizes."""

    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rounding: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or 0.0 in self.std:
            raise ValueError("there are not three channels, or std holds a zero")
        if not self.token:
            raise ValueError("the image's token is no text")


@dataclass(frozen=True, kw_only=True)
class PatchRecipe(ImageRecipe):
    """How an image of any shape becomes patches.

    A *unit* is ``patch_size * merge_size`` pixels, the side of what becomes one feature.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    max_side: int | None = None
    """Pixels; for ``shrink`` and ``edge``, and ``zoom`` where there is one."""

    zoom: float | None = None
    """For ``zoom``: how much larger an image is made; as it is without."""

    fit: Literal["area", "shrink", "fill", "canvas", "edge", "zoom", "shape", "count", "pad"] = (
        "area"
    )
    """``area``: to whole units, near the image's shape and within both limits; ``shrink``: to the
    limits where it is larger, then black on the right and below up to whole units; ``fill``: to the
    most whole units of its shape below ``max_pixels``; ``canvas``: on the least whole units that
    hold it within both limits, as it is or in its own shape, black on the right and below;
    ``edge``: to ``max_side`` where its longer side has more, then up to whole units; ``zoom``: by a
    factor, its longer side to no more than ``max_side`` unless it has more already; ``shape``: to
    the whole units around its size, or around the largest size of its shape within ``max_pixels``,
    that are nearest to its shape; ``count``: to whole units of as many patches as both limits have
    room for, resized in float32 and not rounded to bytes; ``pad``: as it is, what is transparent
    over a chequered ground, up to whole units with the number of a byte of -1."""

    layout: Literal["blocks", "rows", "places", "flat_rows", "cells", "times"] = "blocks"
    """``blocks``: flat patches with a grid, those of one feature together; ``rows``: square patches
    with a grid, row by row; ``places``: flat patches with channels last and the column and row of
    each, row by row, padded to ``max_pixels``; ``flat_rows``: flat patches with a grid, row by
    row; ``cells``: for ``zoom``, whole patches with channels last and every time, row by row, in a
    column more than the image fills, of the number of a byte of -1 around it; ``times``: flat
    patches with a grid, row by row, each once for every time."""

    newline: bool = False
    """Whether another feature stands behind those of each row."""

    between_rows: str = ""
    """Text between the features of two rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.patch_size, self.temporal_patch_size, self.merge_size, self.min_pixels) < 1:
            raise ValueError("a size of patches is less than 1")
        if not self.min_pixels <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(f"min_pixels is above max_pixels, or that above {MAX_PIXELS}")
        has_side = self.fit in ("shrink", "edge") or self.zoom is not None
        if has_side != (self.max_side is not None) or _is_none(self.max_side):
            raise ValueError("max_side belongs to shrink, edge and a zoom, and is 1 or more")
        if self.fit != "shrink" and (self.max_side or 1) ** 2 > MAX_PIXELS:
            raise ValueError(f"a max_side of more than {MAX_PIXELS} pixels in a square")
        if (self.fit == "zoom") != (self.layout == "cells"):
            raise ValueError("zoom belongs to cells, and cells to zoom")
        if self.zoom is not None and (self.fit != "zoom" or self.zoom <= 0):
            raise ValueError("a factor belongs to zoom, and is above 0")
        if self.fit == "zoom" and (self.merge_size != 1 or self.newline or self.between_rows):
            raise ValueError("a cell is one feature, and nothing stands behind a row of them")
        if self.fit == "count" and self.resample == "lanczos":
            raise ValueError("count resizes bilinear or bicubic")
        if self.token in self.between_rows:
            raise ValueError("what stands between rows holds the image's token")


@dataclass(frozen=True, kw_only=True)
class CropRecipe:
    """How an image is also cut into pieces, whose features stand before those of the whole.

    The text of the pieces is row by row, each ``before``, the token ``features`` times and
    ``behind``, with ``between_rows`` between two rows.
    """

    side: int
    """Pixels of a piece's side."""

    features: int
    """Of one piece."""

    fit: Literal["grid", "window"]
    """``grid``: what has more than ``side`` pixels on a side is stretched over ``min_pieces`` to
    ``max_pieces``, of the grid nearest in shape.  ``window``: it is stretched to whole squares of
    ``side``, or of its shorter side where it is more than 4 times as long, where a rest of more
    than a fifth counts, and each is resized to ``side``; what fits the tile is cut if it is more
    than 1.5 times as long, by its shorter side.  Before that, an image of less than 32 pixels that
    is more than 4 times as long is put in the corner of a black square, and one of more than
    ``largest`` pixels on a side is shrunk to these."""

    min_pieces: int = 1
    max_pieces: int = 1
    largest: int | None = None
    before: str = ""
    behind: str = ""
    between_rows: str = ""

    joined: bool = False
    """Whether rows of features run across the pieces of a row, each with one more at its end: then
    these stand one after the other, and a piece has a square of features."""

    def __post_init__(self) -> None:
        if min(self.side, self.features, self.min_pieces) < 1 or _is_none(self.largest):
            raise ValueError("a size of pieces is less than 1")
        if not self.min_pieces <= self.max_pieces <= _MAX_TILES or self.features > _MAX_FEATURES:
            raise ValueError(f"min_pieces is above max_pieces, or that above {_MAX_TILES}")
        if self.joined and (
            math.isqrt(self.features) ** 2 != self.features
            or self.before + self.behind + self.between_rows
        ):
            raise ValueError("joined pieces have a square of features each, and no text between")
        if max(self.side, self.largest or 1) ** 2 > MAX_PIXELS:
            raise ValueError(f"pieces of more than {MAX_PIXELS} pixels")


@dataclass(frozen=True, kw_only=True)
class TileRecipe(ImageRecipe):
    """How an image becomes tiles of one size; the whole of it comes last where it is cut.

    The text of a cut image is its tiles row by row, each the token ``features`` times, with
    ``between_columns`` between two and ``behind_row`` behind each row; then ``before_whole`` and
    the features of the whole.  One that is not cut has the last two alone.
    """

    height: int
    width: int
    features: int
    """Of one tile."""

    separators: int = 0
    """Features that each image has beside those of its tiles, at its end."""

    fit: Literal["whole", "aspect", "scale", "corner", "middle"]
    """``whole``: stretched over one tile; ``aspect``: over ``min_tiles`` to ``max_tiles``, of the
    grid nearest in shape; ``scale``: in its own shape over at most ``max_tiles``, of the grid that
    shrinks it least, black on the right and below; ``corner``: in one tile, its shorter side at
    least ``min_side``, black on the right and below; ``middle``: in the middle of one tile."""

    min_tiles: int = 1
    max_tiles: int = 1
    enlarge: bool = False
    """For ``scale``: whether an image may become larger than a tile by more than it has pixels."""

    min_side: int = 1
    fill: tuple[int, ...] = (0, 0, 0)
    """The colour around an image in the middle."""

    masked: bool = False
    """Whether ``vision`` is told which pixels are of the image."""

    max_side: int | None = None
    """The model's processor cuts what has more pixels on a side, in a way that no recipe has."""

    max_aspect: float | None = None
    """The same of the longer side, over the shorter."""

    between_columns: str = ""
    behind_row: str = ""
    before_whole: str = ""

    crops: CropRecipe | None = None
    """Pieces of another size that an image is also cut into; for one tile alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (self.height, self.width, self.features, self.min_tiles, self.min_side)
        if min(sizes) < 1 or _is_none(self.max_side) or self.separators < 0:
            raise ValueError("a size of tiles is less than 1")
        if not self.min_tiles <= self.max_tiles <= _MAX_TILES:
            raise ValueError(f"min_tiles is above max_tiles, or that above {_MAX_TILES}")
        if len(self.fill) != 3 or not all(0 <= value <= 255 for value in self.fill):
            raise ValueError("the colour is not three bytes")
        if self.max_tiles * self.height * self.width > MAX_PIXELS or self.min_side > self.height:
            raise ValueError(f"tiles of more than {MAX_PIXELS} pixels, or min_side above a tile's")
        if max(self.features, self.separators) > _MAX_FEATURES:
            raise ValueError(f"a tile has more than {_MAX_FEATURES} features")
        texts = [self.between_columns, self.behind_row, self.before_whole]
        if (crops := self.crops) is not None:
            texts += [crops.before, crops.behind, crops.between_rows]
            if self.max_tiles > 1 or self.masked or self.height != self.width:
                raise ValueError("crops belong to one square tile without a mask")
        if self.token in "".join(texts):
            raise ValueError("what stands between tiles holds the image's token")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What stands around a user's words where a model answers them."""

    before: str
    after: str
    image: str | None = None
    """What stands for one image, in front of the words; it holds the image's token once."""


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """What a generator needs to know beside graphs and tokenizer."""

    positions: Literal["plain", "mrope"]
    eos_token_ids: tuple[int, ...]
    max_length: int
    """Of prompt and answer together, in tokens."""

    max_new_tokens: int
    prompt: Prompt
    patches: PatchRecipe | None = None
    tiles: TileRecipe | None = None
    no_images: str | None = None
    """Why a model that sees has no recipe."""

    @property
    def images(self) -> PatchRecipe | TileRecipe | None:
        """What is done with an image, if the model is shown any."""
        return self.patches or self.tiles

    def __post_init__(self) -> None:
        if min(self.max_length, self.max_new_tokens) < 1 or min(self.eos_token_ids, default=0) < 0:
            raise ValueError("a length is less than 1, or a token id is negative")
        if self.patches is not None and self.tiles is not None:
            raise ValueError("an image is made into patches or tiles, not both")
        if self.images is not None and (self.prompt.image or "").count(self.images.token) != 1:
            raise ValueError("the prompt has no place for an image, or several for one")
        if self.positions == "mrope" and self.tiles is not None:
            raise ValueError("tiles have no grid that positions could follow")
