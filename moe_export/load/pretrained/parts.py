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
from torch import Tensor, nn

from moe_export.load.pretrained import attention
from moe_export.load.pretrained.cache import (
    GROWING,
    carried,
    empty,
    filled,
    put_prompt,
    tensors_of,
)
from moe_export.load.pretrained.indexed import has_index, keep_by_count
from moe_export.load.pretrained.joined import join_apart
from moe_export.load.pretrained.lightning import in_lightning_steps, is_lightning
from moe_export.load.pretrained.masks import (
    FULL,
    INDEXED,
    LIGHTNING,
    LINEAR,
    NGRAMS,
    SHARING,
    SHARING_INDEXED,
    masks_of,
)
from moe_export.load.pretrained.modal import split_by_kind
from moe_export.load.pretrained.recurrence import in_steps
from moe_export.load.pretrained.rotations import in_real_numbers, keep_real
from moe_export.load.pretrained.sinks import route_shared
from moe_export.load.pretrained.windows import WindowsCopied

# What ``vision`` gives and ``embed`` takes, and the axis of each that counts features.
FEATURE_AXES = {"image_embeds": 0, "deepstack": 1}


class Part(nn.Module):
    """All modules of the source, by their names there; what ``forward`` runs is one part of it."""

    config: Any

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        for name, child in source.named_children():
            self.add_module(name, child)
        self.config = cast(Any, source).config
        keep_real(self)

    @property
    def core(self) -> Any:
        """What holds the towers and the text model."""
        return core_of(self)

    @property
    def text_model(self) -> Any:
        """What maps embeddings to hidden states."""
        return text_model_of(self)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the part gives for ``inputs`` by name, and no gradients."""
        with torch.no_grad():
            made: dict[str, Tensor] = self(**inputs)
        return made


def core_of(source: Any) -> Any:
    """What holds the towers and the text model: what lies beside the head, where there is one."""
    found = (getattr(source, name, None) for name in ("model", "transformer"))
    return next((core for core in found if core is not None), source)


def text_model_of(source: Any) -> Any:
    """What maps embeddings to hidden states, be it alone or beside its head."""
    core = core_of(source)
    text = getattr(core, "language_model", core)
    return text.model if hasattr(text, "lm_head") and text is not core else text


def looks_up_ngrams(model: nn.Module) -> bool:
    """Whether any part of it looks up n-grams of tokens by their ids."""
    return any(hasattr(module, "ngram_embedding") for module in model.modules())


def with_blocks(text_model: nn.Module, hidden_size: int) -> None:
    """Let what is a router with its experts be a module that maps rows to rows, everywhere."""
    split_by_kind(text_model)
    route_shared(text_model)
    join_apart(text_model, hidden_size)


class Decoder(Part):
    """Rows that follow a cache to logits, of the last one or of all, and the longer cache.

    ``inputs_embeds [B, S, H]``, ``position_ids``, ``attention_mask [B, P+S]`` (0: padding), and for
    each layer ``past_key_<i>`` and ``past_value_<i> [P, B, heads, d]``; P may be 0.  Where layers
    look at all of the prompt, the first has ``past_prompt_<i> [B, 1]`` too, 0 before one.  A layer
    that carries a state has ``past_conv_<i>`` and ``past_state_<i>`` instead, zeros before a
    prompt.

    Tokens come first, so that a longer cache begins with the shorter one whatever the batch.
    Attention that is the source's own has its caches as the source has them, ``[B, heads, P, d]``.
    """

    def __init__(self, source: nn.Module, *, all_logits: bool = False) -> None:
        super().__init__(source)
        self.all_logits = all_logits
        count: int = self.text_config.num_hidden_layers
        kinds = getattr(self.text_config, "layer_types", None) or [FULL] * count
        once = [self._kind(i, kind) for i, kind in enumerate(kinds)]
        self.kinds: list[str] = once + [once[i] for i in repeated_layers(self.text_config)]
        self.tokens_lead = self.text_config._attn_implementation == "sdpa"
        if self.tokens_lead:
            attention.register()
            self.text_config._attn_implementation = attention.GROUPED
        keep_by_count(self.text_model, as_indices=not self.tokens_lead)
        in_lightning_steps(self.text_model)
        with_blocks(self.text_model, self.text_config.hidden_size)
        kind: Any = type(self)
        self.__class__ = _taking(kind, (*self.own_inputs, *self.cache_names("past")))

    own_inputs: tuple[str, ...] = ("inputs_embeds", "position_ids", "attention_mask")

    @property
    def text_config(self) -> Any:
        """What configures it."""
        return self.config.get_text_config()

    def cache_names(self, prefix: str) -> list[str]:
        """What each layer carries on, as it is named when it goes in or comes out."""
        return [f"{prefix}_{what}_{layer}" for layer, what in carried(self.kinds)]

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        past = [
            self._by_head(what, inputs[name])
            for (_, what), name in zip(carried(self.kinds), self.cache_names("past"), strict=True)
        ]
        cache = filled(self.text_model, self.kinds, past)
        embeds = inputs["inputs_embeds"]
        prompt = self._prompt(inputs)
        if prompt is not None:
            put_prompt(self.kinds, cache, prompt)
        masks = masks_of(
            self.text_config,
            inputs["attention_mask"],
            embeds,
            self._length_before(inputs),
            image_tokens=inputs.get("image_tokens"),
            prompt=prompt,
        )
        with in_real_numbers(), WindowsCopied(), in_steps(self.text_model, cache):
            made = self.text_model(
                inputs_embeds=embeds,
                attention_mask=masks,
                position_ids=inputs["position_ids"],
                cache=cache,
                use_cache=True,
                **self.further(inputs),
            )
        present = self._tensors_of(cache)
        hidden = made.last_hidden_state
        logits = self._logits(hidden if self.all_logits else hidden[:, -1:])
        return {"logits": logits, **dict(zip(self.cache_names("present"), present, strict=True))}

    def _kind(self, number: int, kind: str) -> str:
        """What a layer carries, by the name of a kind of layers."""
        layers = _layers_of(self.text_model)
        # A layer may have two attentions, each with a cache of its own (longcat_flash).
        layer = layers[number * len(layers) // self.text_config.num_hidden_layers]
        # Some layers attend to what an index before them picked, and have none.
        if _is_sharing(layer):
            return SHARING_INDEXED if has_index(layer) else SHARING
        if kind == INDEXED and not has_index(layer):
            return FULL
        if kind == LINEAR and any(map(is_lightning, layer.modules())):
            return LIGHTNING
        if kind == LINEAR and looks_up_ngrams(layer):
            return NGRAMS
        return kind

    def _length_before(self, inputs: Mapping[str, Tensor]) -> int:
        """P, as the cache has it where it has keys, else as the mask has it."""
        for name in self.cache_names("past"):
            if "_key_" in name:
                return inputs[name].shape[0 if self.tokens_lead else 2]
        return inputs["attention_mask"].shape[1] - inputs["inputs_embeds"].shape[1]

    def _prompt(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """How many tokens came first, ``[B, 1]``, where layers carry it."""
        for name in self.cache_names("past"):
            if "_prompt_" in name:
                before, real = inputs[name], inputs["attention_mask"].sum(-1, keepdim=True)
                return torch.where(before > 0, before, real)
        return None

    def further(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What a family's text model takes beside these."""
        return {}

    def of_any_text(self, embeds: Tensor) -> dict[str, Any]:
        """What it cannot do without of these, for some text or other of ``embeds [B, S, H]``."""
        return {}

    def _logits(self, hidden: Tensor) -> Tensor:
        """The head, and what configurations name that comes behind it."""
        config = self.text_config
        head = getattr(self, "lm_head", None) or self.core.language_model.lm_head
        logits: Tensor = head(hidden)
        # A factor of 1 would be two more passes over a large vocabulary.
        for name in ("logit_scale", "output_multiplier"):
            if (factor := getattr(config, name, None) or 1.0) != 1.0:
                logits = logits * factor
        for name in ("logits_scaling", "logits_mup_width_multiplier"):
            if (divisor := getattr(config, name, None) or 1.0) != 1.0:
                logits = logits / divisor
        if (words := getattr(config, "unpadded_vocab_size", None)) is not None:
            logits = logits[..., :words]
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def empty_cache(self, embeds: Tensor) -> dict[str, Tensor]:
        """The cache that a prompt of ``embeds [B, S, H]`` begins with; its sizes from one token."""
        cache = empty(self.text_model, self.kinds)
        first = embeds[:, :1]
        seen = torch.ones(first.shape[:2], dtype=torch.int64)
        masks = masks_of(self.text_config, seen, first, 0)
        with torch.no_grad():
            self.text_model(
                inputs_embeds=first,
                attention_mask=masks,
                cache=cache,
                use_cache=True,
                **self.of_any_text(first),
            )
        put_prompt(self.kinds, cache, torch.zeros(first.shape[0], 1, dtype=torch.int64))
        made = zip(carried(self.kinds), self._tensors_of(cache), strict=True)
        axis = 0 if self.tokens_lead else 2
        return {
            f"past_{what}_{layer}": x.narrow(axis, 0, 0).clone()
            if what in GROWING
            else torch.zeros_like(x)
            for (layer, what), x in made
        }

    def _by_head(self, what: str, past: Tensor) -> Tensor:
        """Keys and values ``[B, heads, P, d]``, as the source's caches have them."""
        turn = self.tokens_lead and what in GROWING
        return past.permute(1, 2, 0, 3) if turn else past

    def _tensors_of(self, cache: Any) -> list[Tensor]:
        """What a cache of the source's holds, as it goes in and comes out."""
        made = zip(carried(self.kinds), tensors_of(self.kinds, cache), strict=True)
        return [
            x.permute(2, 0, 1, 3) if self.tokens_lead and what in GROWING else x
            for (_, what), x in made
        ]


class DeepstackDecoder(Decoder):
    """A decoder whose first layers add what ``deepstack_embeds [layers, B, S, H]`` holds."""

    own_inputs = ("inputs_embeds", "deepstack_embeds", "position_ids", "attention_mask")

    def __init__(self, source: nn.Module, *, all_logits: bool = False) -> None:
        super().__init__(source, all_logits=all_logits)
        # The source adds rows of features at a mask; here they lie at their places already.
        self.text_model._deepstack_process = _add_everywhere

    def further(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "visual_pos_masks": inputs["attention_mask"],
            "deepstack_visual_embeds": list(inputs["deepstack_embeds"].unbind(0)),
        }


class TypedDecoder(Decoder):
    """A decoder that is told by ``image_tokens [B, S]`` which of its rows are of an image."""

    own_inputs = ("inputs_embeds", "image_tokens", "position_ids", "attention_mask")

    def further(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        name = "moe_mm_token_type_ids"
        takes = name in inspect.signature(self.text_model.forward).parameters
        return {name: inputs["image_tokens"]} if takes else {}


def repeated_layers(config: Any) -> list[int]:
    """The layers that run again, which then have a cache of their own behind those of all layers.

    A model that loops through some of its layers (``inkling2_loop_text``) has several passes.
    """
    passes: int = getattr(config, "loop_num_passes", 1)
    if passes == 1:
        return []
    return [*range(config.loop_layer_index_start, config.loop_layer_index_end)] * (passes - 1)


def _layers_of(text_model: Any) -> nn.ModuleList:
    """Its decoder layers, which some sources call blocks (``dbrx``)."""
    name = "layers" if hasattr(text_model, "layers") else "blocks"
    layers: nn.ModuleList = getattr(text_model, name)
    return layers


def _is_sharing(layer: nn.Module) -> bool:
    """Whether a decoder layer attends to the keys and values of one before it."""
    return any(getattr(module, "is_kv_shared_layer", False) for module in layer.modules())


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
