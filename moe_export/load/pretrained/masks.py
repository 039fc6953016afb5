"""What each row of a decoder may attend to, in the forms that Transformers' layers take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.load.pretrained.indexed import narrowed_indexers
from moe_export.load.pretrained.pooled import scores_pools

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"

REFERENCE = "reference_sliding_attention"
"""Layers that attend to all of the prompt, and to what follows it within a window."""

LINEAR, CONV = "linear_attention", "conv"
"""Layers that do not attend, and carry a state."""

INDEXED, INDEXED_BLOCKS = "indexed_attention", "minimax_m3_sparse"
"""Layers that attend to the keys that an index picks, or to blocks of them."""

SHARING, SHARING_INDEXED = "sharing", "sharing_indexed"
"""Layers that attend to the keys of one before them, without an index of their own and with."""

HYBRID, HYBRID_SLIDING = "hybrid", "hybrid_sliding"
"""Layers that attend, in a window or not, to what short convolutions made of keys and values."""

NGRAMS = "ngrams"
"""What a configuration calls linear, where the layer also looks up n-grams of the text."""

LIGHTNING = "lightning"
"""What a configuration calls linear, where there is a state and no convolution before it."""

NONE = frozenset({"moe", "mlp"})
"""Layers that do nothing across tokens."""

KINDS = frozenset({FULL, SLIDING, REFERENCE, CHUNKED, LINEAR, CONV, INDEXED, INDEXED_BLOCKS}) | NONE
"""The kinds of layers that the decoder builds masks and caches for."""


def masks_of(
    config: Any,
    padding: Tensor,
    embeds: Tensor,
    past: int,
    *,
    image_tokens: Tensor | None = None,
    prompt: Tensor | None = None,
) -> Tensor | dict[str, Tensor]:
    """One mask ``[B, 1, S, P+S]``, or one for each kind of layer where a model has several.

    ``padding [B, P+S]`` is 0 where a token is padding; ``embeds [B, S, H]`` follow P = ``past``.
    Caches keep all that came before, and what is outside a window is masked.  A row always sees
    itself, also where it is padding: a softmax over nothing would be NaN.  ``image_tokens [B, S]``
    is 1 where a row is of an image: in some models such a row sees all of its image in the layers
    that have a window.  ``prompt [B, 1]`` is how many tokens, without padding, are the prompt's;
    without it all are.
    """
    key = torch.arange(padding.shape[1])[None, :]
    query = torch.arange(embeds.shape[1])[:, None] + past
    whole = None
    if image_tokens is not None and getattr(config, "use_bidirectional_attention", None):
        whole = _of_one_image(image_tokens, past)
    made = {}
    for kind in kinds_of(config):
        if kind in (LINEAR, CONV) or (kind == INDEXED and scores_pools(config)):
            made[kind] = padding[:, past:]
            continue
        seen = _seen(config, kind, padding.bool(), query, key, whole)
        if kind == REFERENCE and prompt is not None:
            is_prompt = (padding.cumsum(-1) <= prompt)[:, None, None, :]
            seen = seen & (is_prompt | (key > query - config.sliding_window))
        made[kind] = seen if config._attn_implementation != "eager" else _added(seen, embeds.dtype)
    return made if len(made) > 1 else made.popitem()[1]


def kinds_of(config: Any) -> list[str]:
    """The kinds of layers that a text configuration names; ``FULL`` where it names none.

    Models without a list have one kind of layer, with a window where there is a size for it.
    """
    named = set(getattr(config, "layer_types", None) or ()) - NONE
    for kind, within in ((HYBRID, FULL), (HYBRID_SLIDING, SLIDING)):
        if kind in named:
            named = named - {kind} | {within, LINEAR}
    if named - {FULL}:
        return sorted({FULL, *named})
    is_used = getattr(config, "use_sliding_window", True) is not False
    return [SLIDING if not named and is_used and getattr(config, "sliding_window", None) else FULL]


# Shorter than the prompts that parts are proven with; or than what follows a prompt there.
_NARROW, _NARROW_BEHIND = 5, 2


_WIDTHS = ("sliding_window", "attention_chunk_size")


@contextmanager
def narrowed(config: Any, model: nn.Module) -> Iterator[None]:
    """Windows and chunks that a short prompt crosses, and indices that keep a part of it.

    Both the source's own masks and those made here read the size when they run.  So what a prompt
    of a dozen tokens proves with a short window holds for a window of thousands, which only
    another number tells apart.
    """
    sizes = {name: size for name in _WIDTHS if (size := getattr(config, name, None)) is not None}
    narrow = _NARROW_BEHIND if REFERENCE in kinds_of(config) else _NARROW
    try:
        for name, size in sizes.items():
            setattr(config, name, min(size, narrow))
        with narrowed_indexers(model):
            yield
    finally:
        for name, size in sizes.items():
            setattr(config, name, size)


def _seen(
    config: Any, kind: str, real: Tensor, query: Tensor, key: Tensor, whole: Tensor | None
) -> Tensor:
    seen = key <= query
    if kind == SLIDING and whole is not None:
        seen = seen | whole
    seen = seen & real[:, None, None, :]
    if kind == SLIDING:
        seen = seen & (key > query - config.sliding_window)
    if kind == CHUNKED:
        # Chunks are counted from the first token that is no padding.
        first = (real.long().cumsum(-1) == 0).sum(-1)[:, None, None, None]
        size = config.attention_chunk_size
        seen = seen & ((key - first) // size == (query - first) // size)
    return seen | (key == query)


def _of_one_image(image_tokens: Tensor, past: int) -> Tensor:
    """``[B, 1, S, P+S]``: whether row and key stand in one unbroken run of an image's tokens.

    What came before the rows counts as text.
    """
    is_image = image_tokens > 0
    begins = is_image & (F.pad(image_tokens, (1, 0))[:, :-1] == 0)
    number = torch.where(is_image, begins.long().cumsum(-1), 0)
    keys = F.pad(number, (past, 0))
    return ((number[:, :, None] == keys[:, None, :]) & is_image[:, :, None])[:, None]


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What Transformers' eager attention adds to its scores."""
    return torch.zeros((), dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
