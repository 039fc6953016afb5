"""What a decoder carries from token to token, as plain tensors: keys and values, or states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moe_export.load.pretrained.masks import CONV, INDEXED, INDEXED_BLOCKS, LINEAR, NONE

_OF_ATTENTION = ("key", "value")
_KINDS: Mapping[str, tuple[str, ...]] = {
    LINEAR: ("conv", "state"),
    CONV: ("conv",),
    INDEXED: (*_OF_ATTENTION, "index"),
    INDEXED_BLOCKS: (*_OF_ATTENTION, "index"),
    **dict.fromkeys(NONE, ()),
}

GROWING = frozenset({"key", "value", "index"})
"""What is one row longer behind each token."""


def carried(kinds: Sequence[str]) -> list[tuple[int, str]]:
    """Each tensor of the cache, by its layer and what it is: key, value, index, conv or state.

    ``index [B, 1, P, d]`` are the keys that an index scores.  ``conv [B, channels, kernel]`` are
    the last inputs of a convolution, ``state [B, heads, ...]`` what a recurrence has come to: both
    of one size, however long the text.
    """
    return [(i, what) for i, kind in enumerate(kinds) for what in _KINDS.get(kind, _OF_ATTENTION)]


def needs_kinds(kinds: Sequence[str]) -> bool:
    """Whether any layer carries something else than keys and values."""
    return any(kind in _KINDS for kind in kinds)


def filled(kinds: Sequence[str], tensors: Sequence[Tensor]) -> Any:
    """Transformers' cache of these tensors, in the order of ``carried``."""
    from transformers import DynamicCache
    from transformers.cache_utils import (
        DYNAMIC_LAYER_TYPE_MAPPING,
        DynamicLayer,
        LinearAttentionLayer,
    )

    keys_and_values: Any = DynamicLayer

    class States(LinearAttentionLayer):
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

    class Carried(DynamicCache):
        """A cache that remembers which state was read last."""

        read_last: Tensor | None = None

        def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
            self.read_last = super().get_recurrent_state(layer_idx, state_idx)
            return self.read_last

    given = iter(tensors)
    layers: list[Any] = []
    for kind in kinds:
        what = _KINDS.get(kind, _OF_ATTENTION)
        if GROWING.issuperset(what) and what:
            has_index = "index" in what
            layers.append(DYNAMIC_LAYER_TYPE_MAPPING[kind]() if has_index else keys_and_values())
            layers[-1].update(next(given), next(given))
            if has_index:
                _put_index(layers[-1], next(given))
            continue
        layers.append(States())
        layers[-1].record_past = True  # takes one token as it takes several
        layers[-1].has_previous_state[0] = True
        for name in what:
            held = layers[-1].conv_states if name == "conv" else layers[-1].recurrent_states
            held[0] = next(given).clone()  # some sources write to what they are given
    cache = Carried()
    cache.layers, cache.layer_class_to_replicate = layers, None
    return cache


def tensors_of(kinds: Sequence[str], cache: Any) -> Iterator[Tensor]:
    """The tensors that a cache holds, in the order of ``carried``."""
    for i, what in carried(kinds):
        layer = cache.layers[i]
        if what == "index":
            yield _index_of(layer)
        elif what in GROWING:
            yield layer.keys if what == "key" else layer.values
        else:
            yield layer.conv_states[0] if what == "conv" else layer.recurrent_states[0]


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
