"""The part that embeds text and puts the features of images between it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.load.pretrained.parts import Part


class EmbedText(Part):
    """``input_ids [B, S]`` to ``inputs_embeds [B, S, H]``, where there is nothing but text."""

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.text_model.get_input_embeddings()(input_ids)}


class Embed(Part):
    """``input_ids [B, S]`` and the features of all images in order to the decoder's inputs.

    ``stand_ins`` are tokens that the source embeds as others, by id.
    """

    def __init__(self, source: nn.Module, stand_ins: Mapping[int, int]) -> None:
        super().__init__(source)
        self._stand_ins = dict(stand_ins)

    def forward(self, input_ids: Tensor, image_embeds: Tensor) -> dict[str, Tensor]:
        places = _Places(input_ids, self.config.image_token_id, image_embeds.shape[0])
        return {"inputs_embeds": places.put(image_embeds, self.text(input_ids, places))}

    def text(self, input_ids: Tensor, places: _Places) -> Tensor:
        """The embeddings of the text; an image's token may be none that the table has."""
        embed: Any = self.text_model.get_input_embeddings()
        ids = input_ids.masked_fill(places.is_image, 0)
        for token, other in self._stand_ins.items():
            ids = ids.masked_fill(input_ids == token, other)
        made: Tensor = embed(ids)
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


class TypedEmbed(Embed):
    """The same, and ``image_tokens [B, S]``: 1 where a token is of an image."""

    def __init__(
        self, source: nn.Module, stand_ins: Mapping[int, int], names: tuple[str, ...]
    ) -> None:
        super().__init__(source, stand_ins)
        own = self.config.image_token_id
        self._around = [i for i in (getattr(self.config, name) for name in names) if i != own]

    def forward(self, input_ids: Tensor, image_embeds: Tensor) -> dict[str, Tensor]:
        features = image_embeds.shape[0]
        places = _Places(input_ids, self.config.image_token_id, features)
        is_of_image = places.is_image
        for token in self._around:
            # In an answer, where there are no features, such a token is text.
            is_of_image = is_of_image | ((input_ids == token) & places.is_image.any())
        return {
            "inputs_embeds": places.put(image_embeds, self.text(input_ids, places)),
            "image_tokens": is_of_image.long(),
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
