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
    NONE,
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
    **dict.fromkeys((SHARING, *NONE), ()),
}

GROWING = frozenset({"key", "value", "index"})
"""What is one row longer behind each token."""


def carried(kinds: Sequence[str]) -> list[tuple[int, str]]:
    """Each tensor of the cache, by its layer and what it is: key, value, index, conv or state.

    ``index [B, 1, P, d]`` are the keys that an index scores.  ``conv [B, channels, kernel]`` are
    the last inputs of a convolution, ``conv0`` and so on where a layer has several, and ``state
    [B, heads, ...]`` what a recurrence has come to: all of one size, however long the text.
    """
    return [(i, what) for i, kind in enumerate(kinds) for what in _KINDS.get(kind, _OF_ATTENTION)]


def needs_kinds(kinds: Sequence[str]) -> bool:
    """Whether any layer carries something else than keys and values."""
    return any(kind in _KINDS for kind in kinds)


def empty(model: Any, kinds: Sequence[str]) -> Any:
    """Transformers' cache of a text model before its first token."""
    return _kind_of(model)(config=model.config if needs_kinds(kinds) else None)


def filled(model: Any, kinds: Sequence[str], tensors: Sequence[Tensor]) -> Any:
    """Transformers' cache of these tensors, in the order of ``carried``."""
    given = iter(tensors)
    layers = [_layer(kind, given) for kind in kinds]
    made = _kind_of(model)()
    made.layers, made.layer_class_to_replicate = layers, None
    return made


def _layer(kind: str, given: Iterator[Tensor]) -> Any:
    """Transformers' cache of one layer, of as many of ``given`` as it carries."""
    from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING

    what = _KINDS.get(kind, _OF_ATTENTION)
    made: Any
    if "index" in what:
        made = DYNAMIC_LAYER_TYPE_MAPPING[INDEXED if kind == SHARING_INDEXED else kind]()
    elif what and GROWING.issuperset(what):
        made = DYNAMIC_LAYER_TYPE_MAPPING[FULL]()
    else:
        made = _with_states(what)
    if "key" in what:
        made.update(next(given), next(given))
    if "index" in what:
        _put_index(made, next(given))
    for name in what:
        if name not in GROWING:
            held, place = _held(made, name)
            held[place] = next(given).clone()  # some sources write to what they are given
    return made


def _with_states(what: Sequence[str]) -> Any:
    count = len([name for name in what if name.startswith("conv")])
    made = _states(has_keys="key" in what)(number_of_states=max(1, count))
    made.record_past = True  # takes one token as it takes several
    for place in range(max(1, count)):
        made.has_previous_state[place] = True
    return made


def _held(layer: Any, name: str) -> tuple[dict[int, Tensor], int]:
    """Where a layer's cache has a convolution's inputs, or a state."""
    if name == "state":
        return layer.recurrent_states, 0
    return layer.conv_states, int(name.removeprefix("conv") or 0)


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


def tensors_of(kinds: Sequence[str], source: Any) -> Iterator[Tensor]:
    """The tensors that a cache holds, in the order of ``carried``."""
    for i, what in carried(kinds):
        layer = source.layers[i]
        if what == "index":
            yield _index_of(layer)
        elif what in GROWING:
            yield layer.keys if what == "key" else layer.values
        else:
            held, place = _held(layer, what)
            yield held[place]


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
