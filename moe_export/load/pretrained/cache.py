"""What a decoder carries from token to token, as plain tensors: keys and values, or states."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from moe_export.load.pretrained.masks import (
    CONV,
    FULL,
    HYBRID,
    HYBRID_SLIDING,
    INDEXED,
    INDEXED_BLOCKS,
    LIGHTNING,
    LINEAR,
    NGRAMS,
    NONE,
    REFERENCE,
    SHARING,
    SHARING_INDEXED,
)

_OF_ATTENTION = ("key", "value")
# Of keys, of values, and behind attention and experts.
_CONVOLUTIONS = ("conv0", "conv1", "conv2", "conv3")
_KINDS: Mapping[str, tuple[str, ...]] = {
    LINEAR: ("conv", "state"),
    CONV: ("conv",),
    LIGHTNING: ("state",),
    INDEXED: (*_OF_ATTENTION, "index"),
    INDEXED_BLOCKS: (*_OF_ATTENTION, "index"),
    HYBRID: (*_OF_ATTENTION, *_CONVOLUTIONS),
    HYBRID_SLIDING: (*_OF_ATTENTION, *_CONVOLUTIONS),
    SHARING_INDEXED: ("index",),
    NGRAMS: ("conv", "state", "ngrams", "ids"),
    REFERENCE: (*_OF_ATTENTION, "prompt"),
    **dict.fromkeys((SHARING, *NONE), ()),
}

_PLACES: Mapping[str, int] = {
    "conv": 0,
    "state": 0,
    "ngrams": 1,
    "ids": 2,
    **{name: place for place, name in enumerate(_CONVOLUTIONS)},
}
"""Which of its states of a kind a layer of the source holds each as."""

GROWING = frozenset({"key", "value", "index"})
"""What is one row longer behind each token."""


def carried(kinds: Sequence[str]) -> list[tuple[int, str]]:
    """Each tensor of the cache, by its layer and what it is: a key, a value, an index and so on.

    ``prompt [B, 1]`` is how many tokens came first, without padding; one layer has it for all.
    ``index [B, 1, P, d]`` are the keys that an index scores.  ``conv [B, channels, kernel]`` are
    the last inputs of a convolution, ``conv0`` and so on where a layer has several, and ``state
    [B, heads, ...]`` what a recurrence has come to: all of one size, however long the text.
    """
    held = [(i, what) for i, kind in enumerate(kinds) for what in _KINDS.get(kind, _OF_ATTENTION)]
    return [(i, what) for i, what in held if what != "prompt" or i == _first_with_prompt(kinds)]


def _first_with_prompt(kinds: Sequence[str]) -> int | None:
    return next((i for i, kind in enumerate(kinds) if kind == REFERENCE), None)


def needs_kinds(kinds: Sequence[str]) -> bool:
    """Whether any layer carries something that plain layers of the source's cache do not hold."""
    return any(kind in _KINDS for kind in kinds if kind != REFERENCE)


def empty(model: Any, kinds: Sequence[str]) -> Any:
    """Transformers' cache of a text model before its first token."""
    return _kind_of(model)(config=model.config if needs_kinds(kinds) else None)


def filled(model: Any, kinds: Sequence[str], tensors: Sequence[Tensor]) -> Any:
    """Transformers' cache of these tensors, in the order of ``carried``."""
    given: list[dict[str, Tensor]] = [{} for _ in kinds]
    for (i, what), tensor in zip(carried(kinds), tensors, strict=True):
        given[i][what] = tensor
    layers = [_layer(model, kind, held) for kind, held in zip(kinds, given, strict=True)]
    made = _kind_of(model)()
    made.layers, made.layer_class_to_replicate = layers, None
    return made


def _layer(model: Any, kind: str, given: Mapping[str, Tensor]) -> Any:
    """Transformers' cache of one layer, of what it carries; a prompt's length is the decoder's."""
    from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING

    states = [name for name in given if name in _PLACES]
    made: Any
    if "index" in given:
        made = DYNAMIC_LAYER_TYPE_MAPPING[INDEXED if kind == SHARING_INDEXED else kind]()
    elif "key" in given and not states:
        made = DYNAMIC_LAYER_TYPE_MAPPING[FULL]()
    else:
        made = _with_states(states, has_keys="key" in given)
    if "key" in given:
        made.update(given["key"], given["value"])
    if "index" in given:
        _put_index(made, given["index"])
    for name in states:
        held, place = _held(made, name)
        held[place] = given[name].clone()  # some sources write to what they are given
    if "ids" in given:
        made.end = _end_of(model)
        made.conv_states[_PLACES["ids"]] += made.end
    return made


def _with_states(names: Sequence[str], *, has_keys: bool) -> Any:
    count = 1 + max((_PLACES[name] for name in names), default=0)
    made = _states(has_keys=has_keys)(number_of_states=count)
    made.record_past = True  # takes one token as it takes several
    for place in range(count):
        made.has_previous_state[place] = True
    return made


def _held(layer: Any, name: str) -> tuple[dict[int, Tensor], int]:
    """Where a layer's cache has a convolution's inputs, or a state."""
    return layer.recurrent_states if name == "state" else layer.conv_states, _PLACES[name]


@cache
def _states(*, has_keys: bool) -> type[Any]:
    from transformers.cache_utils import LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

    kind: Any = LinearAttentionAndFullAttentionLayer if has_keys else LinearAttentionLayer

    class States(kind):  # type: ignore[misc]
        """States that are replaced and not written to: a graph has no memory."""

        def update_conv_state(
            self,
            conv_states: Tensor,
            state_idx: int = 0,
            conv_kernel_size: int | None = None,
            **_: Any,
        ) -> Tensor:
            before: Any = self.conv_states[state_idx]
            seen = torch.cat([before, conv_states], dim=-1)
            self.conv_states[state_idx] = seen[..., -before.shape[-1] :]
            return seen

        def update_recurrent_state(
            self, recurrent_states: Tensor, state_idx: int = 0, **_: Any
        ) -> Tensor:
            self.recurrent_states[state_idx] = recurrent_states
            return recurrent_states

    return States


def _kind_of(model: Any) -> Any:
    """What the code of a text model takes for a cache: its own kind, where it has one."""
    from transformers import DynamicCache

    scope = type(model).__module__
    kinds: list[Any] = [
        kind for kind in vars(sys.modules[scope]).values() if isinstance(kind, type)
    ]
    own = [kind for kind in kinds if kind.__module__ == scope and DynamicCache in kind.__mro__]
    return _carrying(own[0] if own else DynamicCache)


@cache
def _carrying(kind: type[Any]) -> type[Any]:
    from transformers import DynamicCache

    class Carried(kind):  # type: ignore[misc]
        """A cache whose states all are in its layers, and that knows which was read last."""

        read_last: Tensor | None = None

        def __init__(self, config: Any = None) -> None:
            super().__init__()
            DynamicCache.__init__(self, config=config)

        def __len__(self) -> int:
            return len(self.layers)

        def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
            self.read_last = super().get_recurrent_state(layer_idx, state_idx)
            return self.read_last

        def get_linear_cache(self, layer_idx: int) -> Tensor | None:
            state: Tensor | None = self.layers[layer_idx].recurrent_states[0]
            return state

        def set_linear_cache(self, layer_idx: int, state: Tensor) -> None:
            self.layers[layer_idx].recurrent_states[0] = state

    return Carried


def put_prompt(kinds: Sequence[str], source: Any, prompt: Tensor) -> None:
    """Let the layers of a cache that look at all of the prompt know its length ``[B, 1]``."""
    for kind, layer in zip(kinds, source.layers, strict=True):
        if kind == REFERENCE:
            layer.prompt = prompt


def tensors_of(kinds: Sequence[str], source: Any) -> Iterator[Tensor]:
    """The tensors that a cache holds, in the order of ``carried``."""
    for i, what in carried(kinds):
        layer = source.layers[i]
        if what == "index":
            yield _index_of(layer)
        elif what == "prompt":
            yield layer.prompt
        elif what in GROWING:
            yield layer.keys if what == "key" else layer.values
        else:
            held, place = _held(layer, what)
            # Zeros, which is what a cache begins with, are ends of text.
            yield held[place] - getattr(layer, "end", 0) if what == "ids" else held[place]


def _end_of(model: Any) -> int:
    """The token that ends a text, the first of several."""
    end = model.config.eos_token_id
    return int(end[0] if isinstance(end, list) else end)


def _put_index(layer: Any, keys: Tensor) -> None:
    """Give a layer its index's keys ``[B, 1, P, d]``."""
    if hasattr(layer, "idx_keys"):
        layer.idx_keys = keys
        return
    layer.lazy_initialization_indexer(keys)
    layer.indexer_keys = keys.squeeze(1)


def _index_of(layer: Any) -> Tensor:
    """The index's keys of a layer, ``[B, 1, P, d]``."""
    keys: Tensor = layer.idx_keys if hasattr(layer, "idx_keys") else layer.indexer_keys.unsqueeze(1)
    return keys
