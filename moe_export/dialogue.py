"""How a bundle of several graphs is talked to: ``dialogue.json``, for its writer and its reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FILE_NAME = "dialogue.json"


@dataclass(frozen=True, kw_only=True)
class PatchRecipe:
    """How an image becomes patches, and where its features stand in the text.

    The sides become multiples of ``patch_size * merge_size``, near the image's own shape, with an
    area between ``min_pixels`` and ``max_pixels``.  ``y = (pixel * rescale_factor - mean) / std``.
    """

    token: str
    """The text of one feature; an image has as many of it as features."""

    token_id: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.patch_size, self.temporal_patch_size, self.merge_size, self.min_pixels) < 1:
            raise ValueError("a size of patches is less than 1")
        if self.min_pixels > self.max_pixels or len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError("min_pixels is more than max_pixels, or there are not three channels")
        if 0.0 in self.std or not self.token:
            raise ValueError("std holds a zero, or the token is no text")


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

    def __post_init__(self) -> None:
        if min(self.max_length, self.max_new_tokens) < 1 or min(self.eos_token_ids, default=0) < 0:
            raise ValueError("a length is less than 1, or a token id is negative")
        if self.patches is not None and self.patches.token not in (self.prompt.image or ""):
            raise ValueError("the prompt has no place for an image")
