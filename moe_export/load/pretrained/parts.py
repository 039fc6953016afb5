"""A vision-language model as three modules, each of which becomes a graph.

``vision`` turns patches into features, ``embed`` puts them between the embeddings of the text, and
``decoder`` goes on from a cache of keys and values, be it empty.  They hold the very modules of the
source under the source's names, and compute with its code.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.load.pretrained import attention
from moe_export.load.pretrained.masks import masks_of

# What ``vision`` gives and ``embed`` takes, and the axis of each that counts features.
FEATURE_AXES = {"image_embeds": 0, "deepstack": 1}


class Part(nn.Module):
    """All modules of the source, by their names there; what ``forward`` runs is one part of it."""

    model: Any
    lm_head: Any
    config: Any

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        for name, child in source.named_children():
            self.add_module(name, child)
        self.config = cast(Any, source).config

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the part gives for ``inputs`` by name, and no gradients."""
        with torch.no_grad():
            made: dict[str, Tensor] = self(**inputs)
        return made


class EmbedText(Part):
    """``input_ids [B, S]`` to ``inputs_embeds [B, S, H]``, where there is nothing but text."""

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.model.get_input_embeddings()(input_ids)}


class Embed(Part):
    """``input_ids [B, S]`` and the features of all images in order to the decoder's inputs."""

    def forward(self, input_ids: Tensor, image_embeds: Tensor) -> dict[str, Tensor]:
        places = _Places(input_ids, self.config.image_token_id, image_embeds.shape[0])
        return {"inputs_embeds": places.put(image_embeds, self.text(input_ids, places))}

    def text(self, input_ids: Tensor, places: _Places) -> Tensor:
        """The embeddings of the text; an image's token may be none that the table has."""
        embed: Any = self.model.get_input_embeddings()
        made: Tensor = embed(input_ids.masked_fill(places.is_image, 0))
        return made


class DeepstackEmbed(Embed):
    """The same, and the features ``[layers, rows, H]`` that the first decoder layers add."""

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, image_embeds: Tensor, deepstack: Tensor
    ) -> dict[str, Tensor]:
        places = _Places(input_ids, self.config.image_token_id, image_embeds.shape[0])
        embeds = self.text(input_ids, places)
        nothing = torch.zeros_like(embeds)
        layers = [places.put(features, nothing) for features in deepstack.unbind(0)]
        return {
            "inputs_embeds": places.put(image_embeds, embeds),
            "deepstack_embeds": torch.stack(layers),
        }


class _Places:
    """Where in ``input_ids [B, S]`` so many ``features`` of images stand, one after the other.

    An image's token behind the last of them is text, as in an answer that holds one.
    """

    def __init__(self, input_ids: Tensor, image_token: int, features: int) -> None:
        is_token = input_ids == image_token
        count = is_token.flatten().cumsum(0).view_as(input_ids)
        self.is_image = is_token & (count <= features)
        self._feature = torch.where(self.is_image, count - 1, 0)

    def put(self, features: Tensor, into: Tensor) -> Tensor:
        """``into [B, S, H]`` with the rows of ``features`` in their places."""
        # A row of zeros behind: without an image there would be none to choose.
        rows = F.pad(features, (0, 0, 0, 1))
        return torch.where(self.is_image[..., None], rows[self._feature], into)


class Decoder(Part):
    """Rows that follow a cache to the logits of the last one, and the longer cache.

    ``inputs_embeds [B, S, H]``, ``position_ids``, ``attention_mask [B, P+S]`` (0: padding), and for
    each layer ``past_key_<i>`` and ``past_value_<i> [P, B, heads, d]``; P may be 0.

    Tokens come first, so that a longer cache begins with the shorter one whatever the batch.
    Attention that is the source's own has its caches as the source has them, ``[B, heads, P, d]``.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__(source)
        self.num_layers: int = self.text_config.num_hidden_layers
        self.past_axis = 2
        if self.text_config._attn_implementation == "sdpa":
            attention.register()
            self.text_config._attn_implementation = attention.GROUPED
            self.past_axis = 0
        kind: Any = type(self)
        self.__class__ = _taking(kind, (*self.own_inputs, *self.cache_names("past")))

    own_inputs: tuple[str, ...] = ("inputs_embeds", "position_ids", "attention_mask")

    @property
    def text_model(self) -> Any:
        """What maps embeddings to hidden states."""
        return getattr(self.model, "language_model", self.model)

    @property
    def text_config(self) -> Any:
        """What configures it."""
        return self.config.get_text_config()

    def cache_names(self, prefix: str) -> list[str]:
        """Keys and values of each layer, as they are named when they go in or come out."""
        return [f"{prefix}_{kind}_{i}" for i in range(self.num_layers) for kind in ("key", "value")]

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        from transformers import DynamicCache

        past = [self._by_head(inputs[name]) for name in self.cache_names("past")]
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        embeds = inputs["inputs_embeds"]
        made = self.text_model(
            inputs_embeds=embeds,
            attention_mask=masks_of(
                self.text_config, inputs["attention_mask"], embeds, past[0].shape[2]
            ),
            position_ids=inputs["position_ids"],
            cache=cache,
            use_cache=True,
            **self.further(inputs),
        )
        present = self._tensors_of(cache)
        logits = self._logits(made.last_hidden_state[:, -1:])
        return {"logits": logits, **dict(zip(self.cache_names("present"), present, strict=True))}

    def further(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What a family's text model takes beside these."""
        return {}

    def _logits(self, hidden: Tensor) -> Tensor:
        """The head, and what configurations name that comes behind it."""
        config = self.text_config
        logits: Tensor = self.lm_head(hidden)
        # A factor of 1 would be two more passes over a large vocabulary.
        if (factor := getattr(config, "logit_scale", None) or 1.0) != 1.0:
            logits = logits * factor
        if (divisor := getattr(config, "logits_scaling", None) or 1.0) != 1.0:
            logits = logits / divisor
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def empty_cache(self, embeds: Tensor) -> dict[str, Tensor]:
        """The cache that a prompt of ``embeds [B, S, H]`` begins with; its sizes from one token."""
        from transformers import DynamicCache

        cache = DynamicCache()
        with torch.no_grad():
            self.text_model(inputs_embeds=embeds[:, :1], cache=cache, use_cache=True)
        filled = zip(self.cache_names("past"), self._tensors_of(cache), strict=True)
        return {name: x.narrow(self.past_axis, 0, 0).clone() for name, x in filled}

    def _by_head(self, past: Tensor) -> Tensor:
        """``[B, heads, P, d]``, as the source's caches have it."""
        return past.permute(1, 2, 0, 3) if self.past_axis == 0 else past

    def _tensors_of(self, cache: Any) -> list[Tensor]:
        """The keys and values of a cache of the source's, as they go in and come out."""
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return [x.permute(2, 0, 1, 3) for x in tensors] if self.past_axis == 0 else tensors


class DeepstackDecoder(Decoder):
    """A decoder whose first layers add what ``deepstack_embeds [layers, B, S, H]`` holds."""

    own_inputs = ("inputs_embeds", "deepstack_embeds", "position_ids", "attention_mask")

    def __init__(self, source: nn.Module) -> None:
        super().__init__(source)
        # The source adds rows of features at a mask; here they lie at their places already.
        self.text_model._deepstack_process = _add_everywhere

    def further(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "visual_pos_masks": inputs["attention_mask"],
            "deepstack_visual_embeds": list(inputs["deepstack_embeds"].unbind(0)),
        }


@cache
def _taking(decoder: type[Decoder], names: tuple[str, ...]) -> type[Decoder]:
    """The same class whose ``forward`` says these names: a tracer reads its inputs off there."""

    def forward(self: Decoder, **inputs: Tensor) -> dict[str, Tensor]:
        return decoder.forward(self, **inputs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return type(decoder.__name__, (decoder,), {"forward": forward, "__doc__": decoder.__doc__})


def _add_everywhere(hidden: Tensor, _: Tensor, features: Tensor) -> Tensor:
    return hidden + features
