"""What each row of an MoE layer is of: a token of the text, or a part of an image.

A source that knows says it.  Of a model that is one graph, its assets name the input that is text
and the one that is an image, and the model shows the rest by running: a row *stands for* a token
of the text where it is the first row to move when that token alone is another one; what stands for
none, and moves with the image, is of the image.  That holds where no row sees what comes after it,
and images are before or beside the text.  Where the model shows something else nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moe_export.capture.watch import REFUSALS, Inputs, array_of, tensors_in
from moe_export.errors import UnsafeInputError
from moe_export.forms import ANY, IMAGE, MODALITIES, TEXT, Array, MarkedModel
from moe_export.strict_json import parse

_GENERATION, _PREPROCESSOR = "generation_config.json", "preprocessor_config.json"

# Each token of the text is a run of its own, up to the first MoE layer.
_MOST_TOKENS = 64

_NOBODY_KNOWS = np.zeros((0, 0), np.uint8)


class _ReachedError(BaseException):
    """Ends a run at the first MoE layer: no model takes it for a failure of its own."""


def modality_of_case(model: MarkedModel, inputs: Inputs, said: Array | None) -> Array:
    """Codes of the rows as the source has ``said`` them or the model shows them; else empty."""
    if said is not None:
        return said
    words = _Words.of(model.loaded.assets)
    if words is None or not model.proven or words.text not in inputs:
        return _NOBODY_KNOWS
    return _shown(model, inputs, words)


def modality_of_layer(model: MarkedModel, path: str, known: Array, rows: int) -> Array:
    """Codes ``[T]`` of the ``rows`` of one layer, of which ``known`` are those of the case.

    A layer that is for one modality says so itself.
    """
    block = model.loaded.module.get_submodule(path)
    own = getattr(block, "modality", None)
    if own in MODALITIES:
        return np.full(rows, MODALITIES.index(own), np.uint8)
    if known.size == rows:
        return known.reshape(-1)
    return np.full(rows, ANY, np.uint8)


@dataclass(frozen=True)
class _Words:
    """The inputs of a model that answers questions, by name."""

    text: str
    image: str | None

    @classmethod
    def of(cls, assets: Mapping[str, bytes]) -> _Words | None:
        """As assets name them; ``None`` where they do not."""
        text = _named(assets, _GENERATION, "text_input")
        return None if text is None else cls(text, _named(assets, _PREPROCESSOR, "image_input"))


def _named(assets: Mapping[str, bytes], file: str, key: str) -> str | None:
    try:
        settings: Any = parse(assets.get(file, b"{}"), file)
    except UnsafeInputError:
        return None  # which whoever generates will say
    name = settings.get(key) if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def _shown(model: MarkedModel, inputs: Inputs, words: _Words) -> Array:
    tokens = inputs[words.text]
    if tokens.is_floating_point() or tokens.dim() != 2 or tokens.shape[1] > _MOST_TOKENS:
        return _NOBODY_KNOWS
    module, paths = model.loaded.module, [block.path for block in model.proven]

    def rows(changed: Inputs) -> Array:
        """``[B, R, H]``: what enters the first MoE layer."""
        x = _first_layer_input(module, paths, {**inputs, **changed})
        return x.reshape(tokens.shape[0], -1, x.shape[-1])

    try:
        return _codes(rows, inputs, words)
    except (*REFUSALS, AssertionError):
        return _NOBODY_KNOWS  # it refuses what was changed, or its rows are of no batch


def _codes(rows: Callable[[Inputs], Array], inputs: Inputs, words: _Words) -> Array:
    """``[B, R]``, or empty."""
    tokens, before = inputs[words.text], rows({})
    moved = []
    for place in range(tokens.shape[1]):
        changed = _with_another_token(tokens, place)
        if changed is None:
            return _NOBODY_KNOWS
        moved.append((rows({words.text: changed}) != before).any(axis=-1))
    own = _own_rows(moved)
    if own is None:
        return _NOBODY_KNOWS
    codes = np.full(before.shape[:2], ANY, np.uint8)
    if words.image is not None and words.image in inputs:
        image = inputs[words.image]
        codes[(rows({words.image: image + 1}) != before).any(axis=-1)] = IMAGE
    codes[:, own] = TEXT
    return codes


def _own_rows(moved: list[Array]) -> list[int] | None:
    """The first row that moves with each token, if these are others for all, in order."""
    if not all(each.any(axis=1).all() for each in moved):
        return None
    firsts = np.array([each.argmax(axis=1) for each in moved])  # [S, B]
    alike = (firsts == firsts[:, :1]).all()
    if not alike or (np.diff(firsts[:, 0]) <= 0).any():
        return None
    if len(moved) == 1 and (moved[0].sum(axis=1) > 1).any():
        return None  # one token alone shows no order
    return [int(row) for row in firsts[:, 0]]


def _with_another_token(tokens: Tensor, place: int) -> Tensor | None:
    """``tokens [B, S]`` with another id at a place of each row, one that they hold elsewhere."""
    ids = tokens.unique()
    if len(ids) < 2:
        return None
    changed, column = tokens.clone(), tokens[:, place]
    changed[:, place] = ids[(torch.searchsorted(ids, column.contiguous()) + 1) % len(ids)]
    return changed


def _first_layer_input(module: nn.Module, paths: list[str], inputs: Inputs) -> Array:
    """``[..., H]`` of whichever of the layers comes first."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        (x,) = tensors_in((args, kwargs))
        seen.append(x.clone())
        raise _ReachedError

    handles = [
        module.get_submodule(path).register_forward_pre_hook(stop, with_kwargs=True)
        for path in paths
    ]
    try:
        with torch.no_grad():
            module(**inputs)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ValueError("no MoE layer ran")
    return array_of(seen[0])
