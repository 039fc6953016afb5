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


class Vision(Part):
    """``pixel_values [patches, numbers]``, ``image_grid_thw [images, 3]`` to features.

    Patches of an image lie in blocks of ``merge x merge``, which become one row of
    ``image_embeds [rows, H]``; ``deepstack [layers, rows, H]`` is what the first decoder layers get
    beside it.
    """

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> dict[str, Tensor]:
        visual = self.model.visual
        grid = _Grid(image_grid_thw, pixel_values.shape[0], self.config.vision_config)
        indices, weights = grid.interpolation()
        made = visual(
            pixel_values,
            image_grid_thw,
            position_ids=torch.stack([grid.row, grid.column], dim=-1),
            interp_indices=indices,
            interp_weights=weights,
            cu_seqlens=F.pad(grid.ends, (1, 0)),
            max_seqlen=1,  # for kernels that reserve memory; ours does not
        )
        return {
            "image_embeds": made.pooler_output,
            "deepstack": torch.stack(list(made.deepstack_features)),
        }


class _Grid:
    """Where each patch lies in its image, without a loop: ``row`` and ``column [patches]``."""

    def __init__(self, thw: Tensor, patches: int, config: Any) -> None:
        merge = config.spatial_merge_size
        self._side = int(config.num_position_embeddings**0.5)
        sizes = thw.prod(dim=-1)
        self.ends = sizes.cumsum(0)
        place = torch.arange(patches)
        image = (place[:, None] >= self.ends[None, :]).sum(-1)
        self._height, self._width = thw[:, 1][image], thw[:, 2][image]
        within = place - (self.ends - sizes)[image]
        block, inner = within // merge**2, within % merge**2
        blocks = self._width // merge
        self.row = block // blocks * merge + inner // merge
        self.column = block % blocks * merge + inner % merge

    def interpolation(self) -> tuple[Tensor, Tensor]:
        """Four entries of the square table of positions for each patch, and their weights."""
        rows, row_weights = self._taps(self.row, self._height)
        columns, column_weights = self._taps(self.column, self._width)
        indices = rows[:, :, None] * self._side + columns[:, None, :]
        weights = row_weights[:, :, None] * column_weights[:, None, :]
        return indices.flatten(1), weights.flatten(1)

    def _taps(self, place: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        last = self._side - 1
        exact = place.float() * last / (size - 1).clamp(min=1)
        low = exact.floor()
        share = exact - low
        first = low.long()
        both = torch.stack([first, (first + 1).clamp(max=last)], dim=-1)
        return both, torch.stack([1 - share, share], dim=-1)


class Embed(Part):
    """``input_ids [B, S]`` and the features of all images in order to the decoder's inputs."""

    def forward(
        self, input_ids: Tensor, image_embeds: Tensor, deepstack: Tensor
    ) -> dict[str, Tensor]:
        embeds = self.model.language_model.embed_tokens(input_ids)
        is_image = input_ids == self.config.image_token_id
        feature = (is_image.flatten().cumsum(0) - 1).clamp(min=0).view_as(input_ids)

        def put(features: Tensor, into: Tensor) -> Tensor:
            # A row of zeros behind: without an image there would be none to choose.
            rows = F.pad(features, (0, 0, 0, 1))
            return torch.where(is_image[..., None], rows[feature], into)

        nothing = torch.zeros_like(embeds)
        layers = [put(features, nothing) for features in deepstack.unbind(0)]
        return {"inputs_embeds": put(image_embeds, embeds), "deepstack_embeds": torch.stack(layers)}


class EmbedText(Part):
    """``input_ids [B, S]`` to ``inputs_embeds [B, S, H]``, where there is nothing but text."""

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.model.get_input_embeddings()(input_ids)}


class Decoder(Part):
    """Rows that follow a cache to the logits of the last one, and the longer cache.

    ``inputs_embeds [B, S, H]``, ``position_ids``, ``attention_mask [B, P+S]`` (0: padding), and for
    each layer ``past_key_<i>`` and ``past_value_<i> [B, heads, P, d]``; P may be 0.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__(source)
        self.num_layers: int = self.config.get_text_config().num_hidden_layers
        kind: Any = type(self)
        self.__class__ = _taking(kind, (*self.own_inputs, *self.cache_names("past")))

    own_inputs: tuple[str, ...] = ("inputs_embeds", "position_ids", "attention_mask")

    @property
    def text_model(self) -> Any:
        """What maps embeddings to hidden states."""
        return self.model

    def cache_names(self, prefix: str) -> list[str]:
        """Keys and values of each layer, as they are named when they go in or come out."""
        return [f"{prefix}_{kind}_{i}" for i in range(self.num_layers) for kind in ("key", "value")]

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        from transformers import DynamicCache

        past = [inputs[name] for name in self.cache_names("past")]
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        made = self.text_model(
            inputs_embeds=inputs["inputs_embeds"],
            attention_mask=_causal(inputs, past[0].shape[2]),
            position_ids=inputs["position_ids"],
            cache=cache,
            use_cache=True,
            **self.further(inputs),
        )
        present = _tensors_of(cache)
        logits = self.lm_head(made.last_hidden_state[:, -1:])
        return {"logits": logits, **dict(zip(self.cache_names("present"), present, strict=True))}

    def further(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What a family's text model takes beside these."""
        return {}

    def empty_cache(self, embeds: Tensor) -> dict[str, Tensor]:
        """The cache that a prompt of ``embeds [B, S, H]`` begins with; its sizes from a run."""
        from transformers import DynamicCache

        cache = DynamicCache()
        with torch.no_grad():
            self.text_model(inputs_embeds=embeds, cache=cache, use_cache=True)
        filled = zip(self.cache_names("past"), _tensors_of(cache), strict=True)
        return {name: x[:, :, :0].clone() for name, x in filled}


class VisionLanguageDecoder(Decoder):
    """A decoder whose first layers add what ``deepstack_embeds [layers, B, S, H]`` holds."""

    own_inputs = ("inputs_embeds", "deepstack_embeds", "position_ids", "attention_mask")

    def __init__(self, source: nn.Module) -> None:
        super().__init__(source)
        # The source adds rows of features at a mask; here they lie at their places already.
        self.text_model._deepstack_process = _add_everywhere

    @property
    def text_model(self) -> Any:
        return self.model.language_model

    def further(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "visual_pos_masks": inputs["attention_mask"],
            "deepstack_visual_embeds": list(inputs["deepstack_embeds"].unbind(0)),
        }


def _tensors_of(cache: Any) -> list[Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


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


def _causal(inputs: Mapping[str, Tensor], past: int) -> Tensor:
    """``[B, 1, S, P+S]``: each row sees itself and what is before it, but no padding.

    A row of padding sees itself alone: a softmax over nothing would be NaN.
    """
    mask = inputs["attention_mask"].bool()
    query = torch.arange(inputs["inputs_embeds"].shape[1])[:, None] + past
    key = torch.arange(mask.shape[1])[None, :]
    return ((key <= query) & mask[:, None, None, :]) | (key == query)
