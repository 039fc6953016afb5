"""A small model of every family that was tried: its configuration, and how it gets its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch

from moe_export.load.pretrained.directory import seeing_loader, text_loader
from moe_export.moe.families import ENCLOSING
from pretrained_models import EXPERTS, TEXT, lively

from .configurations import TEXT_MODELS, VISION_MODELS


@dataclass(frozen=True)
class Stop:
    """The stage that a family does not pass, and words of the message."""

    stage: str
    words: str
    why: str
    """What a user is told on the page, before the message."""


STOPPED: dict[str, Stop] = {
    "deepseek_v4": Stop(
        stage="proven",
        words="layers of the kind 'compressed_sparse_attention' are not built yet",
        why="its layers attend to a compressed text beside a window, and its first routers look up"
        " experts by the ids of tokens, which a bundle's decoder is not told",
    ),
    "doge": Stop(
        stage="proven",
        words="'1 more behind a cache' differs",
        why="its router splits the scores of a prompt across tokens, so that Transformers itself"
        " answers otherwise behind a cache than to the whole text, and does not without experts",
    ),
    "zaya": Stop(
        stage="proven",
        words="layers of the kind 'hybrid' are not built yet",
        why="its layers carry the last inputs of a convolution and a row of values beside keys and"
        " values, and a router reads what the router of the layer before it made",
    ),
}

REMARKS: dict[str, str] = {
    "aria": "images whole, as its processor shows them; not split",
    "dots3_note": "text and images, without sound",
    "gemma4": "text and images, without sound; without embeddings for each layer",
    "inkling_mm_model": "text and images, without sound; where scores are scaled by position,"
    " padding counts as text, as in Transformers",
    "internvl": "text models with experts, such as qwen3_moe",
    "llama4": "Transformers 5.24.0 itself needs a fault mended to run it",
    "mistral3": "text models with experts, such as mistral4",
    "muse_spark": "text and images, without sound",
    "nemotron_h_omni": "text and images, without sound",
    "phimoe": "its router (SparseMixer) is none that the op says, and is kept as the model has it",
    "qwen3_omni_moe": "the thinker alone, which reads text and images; it hears and says nothing",
    "qwen3_omni_moe_thinker": "text and images, without sound",
}
"""What a family that comes to the end does not do, or does otherwise than others."""

Kind = Literal["vision", "text"]


@dataclass(frozen=True)
class Case:
    """One family, and a small model of it in a directory."""

    family: str
    kind: Kind

    def save(self, folder: Path, changes: Mapping[str, Any] | None = None) -> Any:
        """Write the model to ``folder``, with changes by dotted name, and return it."""
        import transformers

        if self.family in ENCLOSING:
            return self._save_enclosing(folder)
        if self.kind == "text":
            given: dict[str, Any] = {**TEXT, **EXPERTS, **TEXT_MODELS[self.family]}
            loader: Any = text_loader(transformers.CONFIG_MAPPING[self.family])
        else:
            given = VISION_MODELS[self.family]
            loader = seeing_loader(transformers.CONFIG_MAPPING[self.family])
        config = transformers.AutoConfig.for_model(self.family, **_changed(given, changes or {}))
        model = lively(loader.from_config(config))
        _fill_biases(model)
        model.save_pretrained(folder)
        return model

    def _save_enclosing(self, folder: Path) -> Any:
        """Write the whole model, and return the one within that a bundle is of."""
        import transformers

        config = transformers.AutoConfig.for_model(self.family, **VISION_MODELS[self.family])
        kind = transformers.AutoModelForTextToWaveform._model_mapping[type(config)]
        model = lively(kind(config))
        model.save_pretrained(folder)
        return getattr(model, ENCLOSING[self.family].within)


def _changed(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other values under dotted names."""
    made = copy.deepcopy(dict(given))
    for path, value in changes.items():
        *outer, name = path.split(".")
        reduce(dict.__getitem__, outer, made)[name] = value
    return made


def _fill_biases(model: torch.nn.Module) -> None:
    """Give the routers' correction biases, which are buffers, numbers that change the choice."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith("bias"):
            buffer.uniform_(-0.2, 0.2, generator=generator)


CASES = [Case(name, "vision") for name in sorted(VISION_MODELS)] + [
    Case(name, "text") for name in sorted(TEXT_MODELS)
]
