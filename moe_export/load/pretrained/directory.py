"""A Transformers directory: what may be read of it, the model it holds, and what travels on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moe_export.errors import (
    MissingEnvironmentError,
    UnsafeInputError,
    UnsupportedError,
)
from moe_export.load.pretrained.masks import HYBRID, HYBRID_SLIDING, KINDS
from moe_export.load.pretrained.shards import read_shards
from moe_export.load.pretrained.weights import read_whole, whole_files
from moe_export.moe.families import (
    ENCLOSING,
    FAMILIES,
    OUT_OF_REACH,
    Enclosing,
    Family,
    Tiles,
)
from moe_export.strict_json import parse

CONFIG = "config.json"
PROCESSOR, PROCESSORS = "preprocessor_config.json", "processor_config.json"

# What an application may want beside the graphs.  Weights and code stay behind.
_ASSETS = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    PROCESSOR,
    PROCESSORS,
)
_MAX_ASSET_BYTES = 2**26


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model as Transformers builds it, in float32 on the CPU, and the files beside it.

    Its weights stay in their files until they are used.
    """

    model: Any
    stored: Mapping[str, torch.Tensor]
    """The tensors of the checkpoint, by their names there."""

    family: Family | None
    """``None`` for a model of text alone."""

    left_out: Mapping[str, str]
    """Tensors of the checkpoint that are no part of ``model``, by their names' beginning."""

    assets: Mapping[str, bytes]

    @property
    def crop_side(self) -> int | None:
        """Pixels of the pieces that images are also cut into, where a processor says so."""
        images = None if self.family is None else self.family.images
        crops = images.crops if isinstance(images, Tiles) else None
        settings = None if crops is None else image_settings(self.assets)
        if crops is None or settings is None or not settings.get("crop_to_patches", True):
            return None
        side = settings.get(crops.side)
        return side if isinstance(side, int) and side > 0 else None


def image_settings(assets: Mapping[str, bytes]) -> Mapping[str, Any] | None:
    """Of the image processor, in a file of its own or with the other parts of a processor."""
    alone = parse(assets.get(PROCESSOR, b"null"), PROCESSOR)
    if isinstance(alone, dict):
        return alone
    parts = parse(assets.get(PROCESSORS, b"{}"), PROCESSORS)
    found = parts.get("image_processor") if isinstance(parts, dict) else None
    return found if isinstance(found, dict) else None


def read_directory(folder: Path) -> Pretrained:
    """The model in ``folder``, every tensor of it from the safetensors files there, none read yet.

    Only code of the installed Transformers runs, and nothing is downloaded.  Raises
    ``UnsafeInputError`` for weights that are damaged, missing, misshapen or unknown, naming them,
    and for files that would run code; ``UnsupportedError`` for a family or a kind of layer that
    this release does not export; ``MissingEnvironmentError`` without Transformers.
    """
    config = _config(folder)
    files = whole_files(folder)
    transformers = _transformers()
    kind = _model_type(config, folder, transformers)
    enclosing = ENCLOSING.get(kind)
    family = FAMILIES.get(kind if enclosing is None else enclosing.family)
    config_class = transformers.CONFIG_MAPPING[kind]
    loader = text_loader(config_class) if family is None else seeing_loader(config_class)
    if loader is None or kind in OUT_OF_REACH:
        raise _not_built(kind, folder)
    stored = read_shards(files)
    model = _built(loader, stored, enclosing, folder)
    return Pretrained(
        model=model,
        stored=stored,
        family=family,
        left_out={} if enclosing is None else _left_out(enclosing, stored),
        assets=_assets(folder),
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnsafeInputError(f"not a configuration: {error}", where=str(path)) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UnsafeInputError("the configuration names no model_type", where=str(path))
    if config.get("quantization_config"):
        raise UnsupportedError(
            "the weights are quantised already, and such checkpoints are not built yet",
            where=str(path),
            hint="export the model they were made of; --precision quantises its experts",
        )
    return config


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingEnvironmentError(
            f"a Transformers directory needs the transformers package: {error}",
            hint="pip install 'moe-export[transformers]'",
        ) from error
    return transformers


def _model_type(config: Mapping[str, Any], folder: Path, transformers: Any) -> str:
    kind: str = config["model_type"]
    if kind in transformers.CONFIG_MAPPING:
        return kind
    raise UnsupportedError(
        f"Transformers {transformers.__version__} has no model_type {kind!r}"
        + (", and code that comes with a model is not run" if "auto_map" in config else ""),
        where=str(folder / CONFIG),
        hint="a newer transformers may know it",
    )


def text_loader(config_class: Any) -> Any | None:
    """What builds a language model of such a configuration; ``None`` where it is of none.

    Without a record only a model of text alone can be taken apart.  Transformers lists some of
    these among the models that see, and says of the class what it reads.
    """
    import transformers

    causal, seeing = transformers.AutoModelForCausalLM, _seeing(transformers)
    if config_class not in seeing._model_mapping:
        return causal if config_class in causal._model_mapping else None
    reads = seeing._model_mapping[config_class].input_modalities
    return seeing if reads in ("text", ("text",)) else None


def seeing_loader(config_class: Any) -> Any:
    """What builds a model of such a configuration that sees: some are listed as those that hear."""
    import transformers

    seeing = _seeing(transformers)
    hears = config_class not in seeing._model_mapping
    several = transformers.AutoModelForMultimodalLM
    return several if hears and config_class in several._model_mapping else seeing


def _seeing(transformers: Any) -> Any:
    return transformers.AutoModelForImageTextToText


def _not_built(kind: str, folder: Path) -> UnsupportedError:
    where = str(folder / CONFIG)
    if kind in OUT_OF_REACH:
        return UnsupportedError(
            f"the family {kind!r} cannot be exported: {OUT_OF_REACH[kind]}", where=where
        )
    return UnsupportedError(
        f"the family {kind!r} is not built yet",
        where=where,
        hint=f"built are {', '.join(sorted(FAMILIES))}, and language models without images",
    )


def _left_out(enclosing: Enclosing, stored: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {
        f"{name}.*": reason
        for name, reason in enclosing.left_out.items()
        if any(tensor.startswith(f"{name}.") for tensor in stored)
    }


def _of_one(enclosing: Enclosing, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the model within, by its own names for them, and what is of no known part."""
    return {
        name.removeprefix(f"{enclosing.within}."): tensor
        for name, tensor in stored.items()
        if name.partition(".")[0] not in enclosing.left_out
    }


def _built(
    loader: Any, stored: Mapping[str, torch.Tensor], enclosing: Enclosing | None, folder: Path
) -> Any:
    model = read_whole(lambda: _from_tensors(loader, stored, enclosing, folder), folder)
    if (folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def _from_tensors(
    loader: Any, stored: Mapping[str, torch.Tensor], enclosing: Enclosing | None, folder: Path
) -> Any:
    """The model, and what Transformers found odd, which renames, stacks and casts what it gets."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if enclosing is not None:
        config = getattr(config, f"{enclosing.within}_config")
        stored = _of_one(enclosing, stored)
    _require_known_layers(config.get_text_config(), folder)
    kind = loader._model_mapping[type(config)]
    return kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(stored),
        dtype=torch.float32,
        # The implementation to trace: the fused one, where the family's layers can use it.
        attn_implementation="sdpa" if kind._supports_sdpa else "eager",
        experts_implementation="eager",  # the code that a proof can run in float64
        ignore_mismatched_sizes=True,  # so that they are named; none is let through
        output_loading_info=True,
    )


def _require_known_layers(config: Any, folder: Path) -> None:
    """Refuse layers whose masks or states the decoder does not build."""
    known = set(KINDS)
    if getattr(config, "sconv_kernel_size", None):  # others of this name carry a state
        known |= {HYBRID, HYBRID_SLIDING}
    odd = sorted(set(getattr(config, "layer_types", None) or ()) - known)
    if odd:
        raise UnsupportedError(
            f"layers of the kind {odd[0]!r} are not built yet",
            where=str(folder / CONFIG),
            hint=f"built are {', '.join(sorted(KINDS))}",
        )


def _assets(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in _ASSETS:
        path = folder / name
        if path.is_file() and path.stat().st_size <= _MAX_ASSET_BYTES:
            found[name] = path.read_bytes()
    return found
