"""What a decoder is traced with and held against: prompts, what follows them, and padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from moe_export.forms import IMAGE, PADDING, TEXT, Array
from moe_export.lazy import together
from moe_export.load.pretrained.cache import GROWING, carried
from moe_export.load.pretrained.examples import Inputs, PartInputs
from moe_export.load.pretrained.parts import Decoder


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a decoder runs on: its own inputs for ``[B, S]`` tokens, all but the mask."""

    decoder: Decoder
    own: Mapping[str, Tensor]
    modality: Array
    """``[B, S]``, as ``MODALITIES`` counts."""

    _caches: dict[tuple[int, int], Inputs] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """S."""
        return self.own["inputs_embeds"].shape[1]

    def case(self, start: int, end: int, padding: int = 0) -> Inputs:
        """Tokens ``start`` to ``end`` behind a cache of those before, some padding on the left."""
        decoder, embeds = self.decoder, self.own["inputs_embeds"]
        mask = torch.ones(embeds.shape[0], end, dtype=torch.int64)
        mask[0, :padding] = 0
        own = {
            "inputs_embeds": embeds[:, start:end],
            "position_ids": self.own["position_ids"][..., start:end],
            "attention_mask": mask,
        }
        if "deepstack_embeds" in decoder.own_inputs:
            own["deepstack_embeds"] = self.own["deepstack_embeds"][:, :, start:end]
        for name in {"image_tokens", "token_ids"} & set(decoder.own_inputs):
            own[name] = self.own[name][:, start:end]
        past = self._cache(start, padding if start else 0)
        return {**{name: own[name].contiguous() for name in decoder.own_inputs}, **past}

    def modality_of(self, start: int, end: int, padding: int = 0) -> Array:
        """What the tokens of such a case are of."""
        made = self.modality[:, start:end].copy()
        made[0, : max(0, padding - start)] = PADDING
        return made

    def prepare(self, *caches: tuple[int, int]) -> None:
        """Compute what so many tokens leave behind so much padding, beside each other."""
        self._cache(0, 0)  # which all begin with
        together([partial(self._cache, *key) for key in caches])

    def _cache(self, length: int, padding: int) -> Inputs:
        """What so many tokens leave, which is computed once."""
        key = (length, padding)
        if key not in self._caches:
            self._caches[key] = (
                _after(self.decoder, self.case(0, length, padding))
                if length
                else self.decoder.empty_cache(self.own["inputs_embeds"])
            )
        return self._caches[key]


def modality_of(ids: Tensor, image_token: int | None = None) -> Array:
    """What tokens ``[B, S]`` are of: an image where they are its token, else text."""
    is_image = torch.zeros_like(ids) if image_token is None else ids == image_token
    return np.where(is_image.numpy(), IMAGE, TEXT).astype(np.uint8)


def decoder_inputs(prompts: Prompts) -> PartInputs:
    """A prompt, what follows it, and a prompt with padding on its left."""
    decoder, length, case = prompts.decoder, prompts.length, prompts.case
    in_tokens = {0: "past", 1: "batch"} if decoder.tokens_lead else {0: "batch", 2: "past"}
    cache = {
        f"past_{what}_{layer}": in_tokens if what in GROWING else {0: "batch"}
        for layer, what in carried(decoder.kinds)
    }
    own_axes: dict[str, dict[int, str]] = {
        "inputs_embeds": {0: "batch", 1: "sequence"},
        "deepstack_embeds": {1: "batch", 2: "sequence"},
        "image_tokens": {0: "batch", 1: "sequence"},
        "token_ids": {0: "batch", 1: "sequence"},
        # Time, height and width stand before the batch.
        "position_ids": {1: "batch", 2: "sequence"}
        if prompts.own["position_ids"].dim() > 2
        else {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "past+sequence"},
    }
    prompts.prepare((length // 2, 0), (length - 1, 0), (length - 1, 2))
    spans = {
        "prompt": (0, length, 0),
        "one token more": (length - 1, length, 0),
        "padded prompt": (0, length, 2),
        "one token after padding": (length - 1, length, 2),
    }
    example = (length // 2, length)
    return PartInputs(
        example=case(*example),
        axes={**{name: own_axes[name] for name in decoder.own_inputs}, **cache},
        cases={name: case(*span) for name, span in spans.items()},
        modality={
            "example": prompts.modality_of(*example),
            **{name: prompts.modality_of(*span) for name, span in spans.items()},
        },
    )


def _after(decoder: Decoder, before: Inputs) -> Inputs:
    """The cache that a run leaves, as the next one takes it."""
    made = decoder.run(before)
    names = zip(decoder.cache_names("past"), decoder.cache_names("present"), strict=True)
    return {past: made[present] for past, present in names}
