"""Text models that look up what hashes of the last tokens' ids say, beside each token's embedding.

Their decoder is told the ids, and carries those of the last tokens on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.return_types import cummax as CumMax

from moe_export.load.pretrained.embedding import Embed, EmbedText
from moe_export.load.pretrained.parts import Decoder

IDS = "token_ids"
"""What ``embed`` hands the decoder: ``[B, S]``."""


class NgramEmbedText(EmbedText):
    """The same, and ``token_ids [B, S]``, as the text has them."""

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {**super().forward(input_ids), IDS: _made_anew(input_ids)}


class NgramEmbed(Embed):
    """The same, and ``token_ids [B, S]``, as the text has them."""

    def forward(self, input_ids: Tensor, image_embeds: Tensor) -> dict[str, Tensor]:
        return {**super().forward(input_ids, image_embeds), IDS: _made_anew(input_ids)}


def _made_anew(ids: Tensor) -> Tensor:
    """The same numbers: an output of a graph is not one of its inputs."""
    return ids + torch.zeros_like(ids)


class NgramDecoder(Decoder):
    """A decoder that is told the ids of its rows in ``token_ids [B, S]``.

    A layer that hashes them carries ``past_ngrams_<i> [B, channels, kernel]``, the last inputs of a
    convolution, and ``past_ids_<i> [B, tokens]``, the last ids less that of the end.
    """

    own_inputs = ("inputs_embeds", IDS, "position_ids", "attention_mask")

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        with _RunningMaxima():
            return super().forward(**inputs)

    def further(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"ple_input_ids": inputs[IDS]}

    def of_any_text(self, embeds: Tensor) -> dict[str, Any]:
        return {"ple_input_ids": torch.zeros(embeds.shape[:2], dtype=torch.int64)}


class _RunningMaxima(TorchFunctionMode):
    """``torch.cummax`` of ``[B, S]`` along the rows, for which ONNX has no operator."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in (torch.cummax, Tensor.cummax):
            return func(*args, **(kwargs or {}))
        numbers = args[0]
        place = torch.arange(numbers.shape[1])
        least = torch.iinfo(numbers.dtype).min
        upto = torch.where(place <= place[:, None], numbers[:, None, :], least)
        made = upto.amax(-1)
        return CumMax((made, made))
