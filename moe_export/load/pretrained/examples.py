"""Inputs for the parts of a Transformers model: tokens drawn at random, images of random patches.

What a graph is traced with and held against must reach prefill, decoding, padding, several
images and none.  Values come from the source's own code: embeddings from its table, caches from its
layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_export.load.pretrained.parts import FEATURE_AXES, Decoder, Part
from moe_export.load.pretrained.vision import features_of_tiles, merge_of
from moe_export.moe.families import Packed, Tiles

Inputs = dict[str, Tensor]
Shape = tuple[int, int]

_SEED = 20


@dataclass(frozen=True, kw_only=True)
class PartInputs:
    """What one part is traced with, its axes that vary, and what else it is run on."""

    example: Inputs
    axes: dict[str, dict[int, str]]
    cases: dict[str, Inputs]


class Examples:
    """One source of random numbers, so that equal models get equal examples.

    Images of packed patches have so many ``rows x columns`` of features; tiles have them all alike.
    """

    def __init__(self, model: Any, images: Packed | Tiles | None = None) -> None:
        self.config = model.config
        self._images = images
        self._generator = torch.Generator().manual_seed(_SEED)
        if isinstance(images, Tiles):
            with torch.no_grad():
                made = features_of_tiles(model.model, images, self.seen([(0, 0)])["pixel_values"])
            self._tile_features = made.shape[0]

    def tokens(self, batch: int, length: int) -> Tensor:
        """Ids ``[batch, length]`` that mean nothing but text."""
        size = self.config.get_text_config().vocab_size
        special = {
            value
            for name, value in self.config.to_dict().items()
            if name.endswith(("token_id", "token_index")) and isinstance(value, int)
        }
        plain = torch.tensor([i for i in range(min(size, 4096)) if i not in special])
        return plain[torch.randint(len(plain), (batch, length), generator=self._generator)]

    def prompt(self, shapes: list[Shape], length: int) -> Tensor:
        """Ids ``[1, S]``: ``length`` of text around the features of so many images."""
        text = iter(torch.split(self.tokens(1, length * (len(shapes) + 1)), length, dim=1))
        names = ("vision_start_token_id", "image_token_id", "vision_end_token_id")
        start, token, end = map(self._token, names)
        parts = [next(text)]
        for shape in shapes:
            parts += [start, token.expand(1, self.features(shape)), end, next(text)]
        return torch.cat(parts, dim=1)

    def _token(self, name: str) -> Tensor:
        """``[1, 1]``, or ``[1, 0]`` where the configuration has no such token."""
        value = getattr(self.config, name, None)
        return torch.tensor([[] if value is None else [value]], dtype=torch.int64)

    def features(self, shape: Shape) -> int:
        """How many rows an image becomes."""
        return self._tile_features if isinstance(self._images, Tiles) else shape[0] * shape[1]

    def seen(self, shapes: list[Shape]) -> Inputs:
        """What ``vision`` takes for random images."""
        vision = self.config.vision_config
        if not isinstance(self._images, Packed):
            side = getattr(vision, "sam_config", vision).image_size
            size = (len(shapes), 3, side, side)
            return {"pixel_values": torch.randn(size, generator=self._generator)}
        merge = merge_of(self.config)
        grid = torch.tensor([[1, rows * merge, columns * merge] for rows, columns in shapes])
        patch: tuple[int, ...] = (3, vision.patch_size, vision.patch_size)
        if self._images.patch == "flat":
            patch = (math.prod(patch) * vision.temporal_patch_size,)
        count = int(grid.prod(dim=-1).sum())
        pixels = torch.randn(count, *patch, generator=self._generator)
        return {"pixel_values": pixels, "image_grid_thw": grid}


def vision_inputs(examples: Examples, images: Packed | Tiles) -> PartInputs:
    """One, two and three images, of several shapes where they may differ."""
    axes: dict[str, dict[int, str]] = {"pixel_values": {0: "tiles"}}
    if isinstance(images, Packed):
        patches = f"{merge_of(examples.config) ** 2}*features"
        axes = {"pixel_values": {0: patches}, "image_grid_thw": {0: "images"}}
    return PartInputs(
        example=examples.seen([(2, 3), (4, 2)]),
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


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a decoder runs on: its own inputs for ``[B, S]`` tokens, all but the mask."""

    decoder: Decoder
    own: Mapping[str, Tensor]

    @property
    def length(self) -> int:
        """S."""
        return self.own["inputs_embeds"].shape[1]

    def case(self, start: int, end: int, padding: int = 0) -> Inputs:
        """Tokens ``start`` to ``end`` behind a cache of those before, some padding on the left."""
        decoder, embeds = self.decoder, self.own["inputs_embeds"]
        if start:
            past = _after(decoder, self.case(0, start, padding))
        else:
            past = decoder.empty_cache(embeds)
        mask = torch.ones(embeds.shape[0], end, dtype=torch.int64)
        mask[0, :padding] = 0
        own = {
            "inputs_embeds": embeds[:, start:end],
            "position_ids": self.own["position_ids"][..., start:end],
            "attention_mask": mask,
        }
        if "deepstack_embeds" in decoder.own_inputs:
            own["deepstack_embeds"] = self.own["deepstack_embeds"][:, :, start:end]
        return {**{name: own[name].contiguous() for name in decoder.own_inputs}, **past}


def decoder_inputs(prompts: Prompts) -> PartInputs:
    """A prompt, what follows it, and a prompt with padding on its left."""
    decoder, length, case = prompts.decoder, prompts.length, prompts.case
    axes = {decoder.past_axis: "past", 1 if decoder.past_axis == 0 else 0: "batch"}
    cache = {name: dict(sorted(axes.items())) for name in decoder.cache_names("past")}
    own_axes: dict[str, dict[int, str]] = {
        "inputs_embeds": {0: "batch", 1: "sequence"},
        "deepstack_embeds": {1: "batch", 2: "sequence"},
        # Time, height and width stand before the batch.
        "position_ids": {1: "batch", 2: "sequence"}
        if prompts.own["position_ids"].dim() > 2
        else {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "past+sequence"},
    }
    return PartInputs(
        example=case(length // 2, length),
        axes={**{name: own_axes[name] for name in decoder.own_inputs}, **cache},
        cases={
            "prompt": case(0, length),
            "one token more": case(length - 1, length),
            "padded prompt": case(0, length, padding=2),
            "one token after padding": case(length - 1, length, padding=2),
        },
    )


def _after(decoder: Decoder, before: Inputs) -> Inputs:
    """The cache that a run leaves, as the next one takes it."""
    made = decoder.run(before)
    names = zip(decoder.cache_names("past"), decoder.cache_names("present"), strict=True)
    return {past: made[present] for past, present in names}
