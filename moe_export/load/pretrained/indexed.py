"""Attention to the keys that an index picks, for any length of text.

An indexer scores all keys that came before and keeps the best of them, or the best blocks of them.
Its scores are the source's own code.  What is kept is counted here: sources take indices of as many
keys as there are, which would tie a graph to a length, and leave open which of equal scores wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.return_types import topk as TopK

from moe_export.forms import CHOICES
from moe_export.load.pretrained.blocked import has_mean_blocks, keep_blocks
from moe_export.load.pretrained.pooled import has_pools, keep_pools, narrow_pools

_NOWHERE = float("-inf")

_BLOCKS = "block_size"
"""What an indexer has that keeps blocks of keys."""

_NARROW_POOL = 2

SIZES: Mapping[str, int] = {
    "index_topk": 5,
    _BLOCKS: 2,
    "topk_blocks": 2,
    "local_blocks": 1,
    "compress_ratio": 2,
    "block_topk": 2,
}
"""What says how much an indexer keeps, and so little that a short prompt has more."""

# With these a source scores each key by itself, and asks for the best one, which all have.
_ONE_BY_ONE = {"index_topk": 1, _BLOCKS: 1, "topk_blocks": 1, "local_blocks": 0}

# Above every position: no key lies in the future, until it is looked at behind a mask.
_END_OF_TIME = 2**40


def indexers_of(model: nn.Module) -> list[Any]:
    """The modules that say which keys are attended to."""
    return [
        module
        for name, module in model.named_modules()
        if name.endswith("indexer") and SIZES.keys() & vars(module).keys()
    ]


def has_index(layer: nn.Module) -> bool:
    """Whether a decoder layer has an indexer, and so keys of its own for it."""
    return bool(indexers_of(layer))


def keep_by_count(model: nn.Module, *, as_indices: bool = False) -> None:
    """Let the indexers of ``model`` hand on what they keep as ``attended`` takes it.

    With ``as_indices``, for attention that is the source's own: as many indices as there are keys,
    of which some are the same.
    """
    for module in indexers_of(model):
        kind: Any = type(module)
        if has_mean_blocks(module):
            keep_blocks(module, kept)
        elif not has_pools(module) and not issubclass(kind, _Counting):
            module.__class__ = _counting(kind, as_indices=as_indices)
    for module in model.modules():
        if hasattr(module, "build_attention_mask_from_topk"):
            keep_pools(module, kept)


@contextmanager
def narrowed_indexers(model: nn.Module) -> Iterator[None]:
    """Indices that keep a part of a short prompt, for as long as this lasts."""
    with ExitStack() as stack:
        for module in indexers_of(model):
            own = vars(module)
            for name in SIZES.keys() & own.keys():
                stack.callback(own.__setitem__, name, own[name])
                own[name] = min(own[name], SIZES[name])
            if has_pools(module):
                stack.enter_context(narrow_pools(module, _NARROW_POOL))
        yield


def attended(
    module: Any, mask: Tensor, indices: Tensor | None, block_indices: Tensor | None
) -> Tensor:
    """``mask [B, 1, S, T]`` without the keys that an index leaves out, ``[B, 1 or heads, S, T]``.

    ``indices`` and ``block_indices`` are what the indexers of ``keep_by_count`` give.
    """
    if indices is not None:
        mask = mask & (indices != 0)[:, None]
    if block_indices is not None:
        seen = _in_kept_blocks(module.indexer, block_indices, mask)
        mask = mask & seen.repeat_interleave(module.config.num_attention_heads // seen.shape[1], 1)
    return mask


def kept(scores: Tensor, count: int) -> Tensor:
    """The ``count`` best of ``scores [..., T]``, all where there are fewer, as truth values.

    Of equal scores the first are kept.  Where a run is told what another chose, it is that.
    """
    best = F.pad(scores, (0, count), value=_NOWHERE).topk(count, dim=-1).values
    least = best[..., -1:]
    above, alike = scores > least, scores == least
    room = count - above.sum(-1, keepdim=True)
    return CHOICES.made(above | (alike & (alike.long().cumsum(-1) <= room)))


class _Counting:
    """An indexer that is asked for scores, and keeps by ``kept``."""


@cache
def _counting(indexer: type[nn.Module], *, as_indices: bool) -> type[nn.Module]:
    """The same class, run one key at a time; its sizes stay in its ``__dict__`` as they were."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        in_blocks = _BLOCKS in vars(self)
        if in_blocks:
            # The mask knows which keys lie in the future, also where padding moves positions.
            *first, positions = args
            args = (*first, torch.full_like(positions, _END_OF_TIME))

        def choose(scores: Tensor) -> Tensor:
            keeps = kept(scores, vars(self)["index_topk"])
            return _indices(keeps) if as_indices else keeps

        with _BestAsked(None if in_blocks else choose):
            return cast(Any, indexer).forward(self, *args, **kwargs)

    def one(value: int) -> property:
        return property(lambda _: value)

    own = {name: one(value) for name, value in _ONE_BY_ONE.items()}
    return type(indexer.__name__, (_Counting, indexer), {"forward": forward, **own})


def _indices(keeps: Tensor) -> Tensor:
    """Of the keys that are kept ``[..., T]``; in place of the others stands the first of them."""
    first = (keeps.long().cumsum(-1) == 0).sum(-1, keepdim=True)
    return torch.where(keeps, torch.arange(keeps.shape[-1]), first)


class _BestAsked(TorchFunctionMode):
    """``topk`` gives what is kept as indices; without ``choose`` the scores themselves."""

    def __init__(self, choose: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self._choose = choose

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in (torch.topk, Tensor.topk):
            return func(*args, **(kwargs or {}))
        scores = args[0]
        return TopK((scores, scores if self._choose is None else self._choose(scores)))


def _in_kept_blocks(indexer: Any, scores: Tensor, mask: Tensor) -> Tensor:
    """Which keys lie in blocks that are kept, ``[B, heads, S, T]``, of scores of that shape.

    Blocks are counted from the first token that is no padding.  A row keeps its own block and
    those before it, as many as are local, and then the best, by the best key that it sees there.
    """
    sizes = vars(indexer)
    size, local = sizes[_BLOCKS], sizes["local_blocks"]
    batch, _, rows, length = scores.shape
    text = torch.arange(batch)[:, None]
    first = _first_token(mask)[:, None]
    count = (length + size - 1) // size

    place = first + torch.arange(count * size)
    behind_each_other = place.clamp(max=length - 1)
    by_key = torch.where(mask, scores, _NOWHERE).permute(0, 3, 1, 2)[text, behind_each_other]
    by_key = by_key.masked_fill((place >= length)[:, :, None, None], _NOWHERE)
    by_block = by_key.reshape(batch, count, size, *by_key.shape[2:])
    best = by_block.amax(dim=2).permute(0, 2, 3, 1)

    block = torch.arange(count)
    own = (torch.arange(length - rows, length) - first).div(size, rounding_mode="floor")
    back = own[:, :, None] - block
    best = best.masked_fill(((back >= 0) & (back < local))[:, None], -_NOWHERE)

    keeps = kept(best, sizes["topk_blocks"])
    block_of_key = (torch.arange(length) - first).clamp(min=0) // size
    return keeps.permute(0, 3, 1, 2)[text, block_of_key].permute(0, 2, 3, 1)


def _first_token(mask: Tensor) -> Tensor:
    """``[B]``: the first key that is no padding, as the row shows that sees the most keys."""
    sees = mask[:, 0].long()
    fullest = sees.sum(-1).argmax(dim=-1)
    row = sees[torch.arange(sees.shape[0]), fullest]
    return (row.cumsum(-1) == 0).sum(-1)
