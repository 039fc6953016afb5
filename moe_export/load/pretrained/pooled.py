"""An index of pools: keys of some tokens are averaged into one, which is scored for all of them.

The source looks for the pools that are full, which ties it to one length; here all there could be
are scored, and those that are not full count as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.lazy import real

_SIZE, _TABLE = "index_kpool", "index_kpool_compress_ape"

Keep = Callable[[Tensor, int], Tensor]


def has_pools(indexer: nn.Module) -> bool:
    """Whether an indexer scores pools of keys."""
    return _SIZE in vars(indexer)


def scores_pools(config: Any) -> bool:
    """Whether a text model's indexers do."""
    return getattr(config, _SIZE, None) is not None


def keep_pools(attention: nn.Module, keep: Keep) -> None:
    """Let the indexer of ``attention`` give the keys it keeps as ``[B, S, T]``, 1 where one is."""
    kind: Any = type(attention)
    if not issubclass(kind, _Pooling):
        attention.__class__ = _attending(kind)
        indexer: Any = attention.indexer
        if indexer is not None:
            kind = type(indexer)
            indexer.__class__ = _keeping(kind, keep)


@contextmanager
def narrow_pools(indexer: Any, size: int) -> Iterator[None]:
    """Pools of at most so many tokens, for as long as this lasts."""
    before, table = vars(indexer)[_SIZE], indexer._parameters[_TABLE]
    narrow = min(before, size)
    vars(indexer)[_SIZE] = narrow
    indexer._parameters[_TABLE] = nn.Parameter(real(table.detach())[:narrow], requires_grad=False)
    try:
        yield
    finally:
        vars(indexer)[_SIZE], indexer._parameters[_TABLE] = before, table


class _Pooling:
    """A module that hands on truth values where the source hands on indices."""


@cache
def _attending(attention: type[nn.Module]) -> type[nn.Module]:
    def mask(self: Any, topk_indices: Tensor, **_: Any) -> Tensor:
        return (topk_indices != 0)[:, None]

    kind = type(attention.__name__, (_Pooling, attention), {"build_attention_mask_from_topk": mask})
    return cast(type[nn.Module], kind)


@cache
def _keeping(indexer: type[nn.Module], keep: Keep) -> type[nn.Module]:
    def forward(
        self: Any, hidden_states: Tensor, q_resid: Tensor, attention_mask: Tensor, cache: Any
    ) -> Tensor:
        heads = self.wq_b(q_resid).unflatten(-1, (self.n_heads, self.head_dim))
        real_rows = attention_mask != 0
        own = [
            self.k_norm(self.wk(hidden_states)),
            F.linear(hidden_states, self.index_kpool_compress_gate),
            real_rows.to(heads.dtype)[..., None],
        ]
        packed = cache.update_indexer(torch.cat(own, dim=-1), self.layer_idx)
        weights = self.weights_proj(hidden_states) * self.n_heads**-0.5
        pools = Pools(packed, self.index_kpool)

        scores = F.relu(heads @ pools.keys(self)[:, None].transpose(-1, -2) * self.softmax_scale)
        scores = (weights[:, :, None] @ scores).squeeze(2)
        chosen = pools.kept(scores, keep, self.index_topk // self.index_kpool)
        if self.index_kpool_always_select_tail:
            chosen = chosen | pools.tails(scores.shape[1])
        # A row of padding sees itself: a softmax over nothing would be NaN.
        row = torch.arange(packed.shape[1])
        itself = row == torch.arange(packed.shape[1] - scores.shape[1], packed.shape[1])[:, None]
        is_real = real_rows[..., None]
        return ((chosen & is_real) | (itself & ~is_real)).int()

    return cast(type[nn.Module], type(indexer.__name__, (_Pooling, indexer), {"forward": forward}))


class Pools:
    """Of texts of T tokens ``[B, T, d + 1]``: keys with what belongs to them, 0 where padding is.

    Pools of ``size`` begin at the first token that is no padding; there are C of them at most.
    """

    def __init__(self, packed: Tensor, size: int) -> None:
        self._size = size
        length = packed.shape[1]
        self._token = torch.arange(length)
        real_keys = packed[..., -1] != 0
        self._first = (real_keys.long().cumsum(-1) == 0).sum(-1, keepdim=True)
        self._text = torch.arange(packed.shape[0])[:, None]
        count = (length + size - 1) // size
        place = self._first + torch.arange(count * size)
        within = place.clamp(max=length - 1)
        shape = (packed.shape[0], count, size)
        self.packed = packed[self._text, within].reshape(*shape, packed.shape[-1])
        is_real = (real_keys[self._text, within] & (place < length)).reshape(shape)
        self._is_full = is_real.all(-1)
        self._last = place.reshape(shape)[..., -1]
        self._real_keys = real_keys

    def keys(self, indexer: Any) -> Tensor:
        """The pools' keys ``[B, C, d]``; those of pools that are not full mean nothing."""
        width = (self.packed.shape[-1] - 1) // 2
        keys, gates = self.packed[..., :width], self.packed[..., width:-1]
        shares = (gates + indexer.index_kpool_compress_ape).softmax(dim=2)
        made: Tensor = (shares * keys).sum(dim=2)
        return made

    def kept(self, scores: Tensor, keep: Keep, count: int) -> Tensor:
        """The keys ``[B, S, T]`` in the ``count`` best of the pools that a row has seen whole."""
        seen = self._is_full[:, None] & (self._last[:, None] <= self._rows(scores.shape[1]))
        best = keep(scores.masked_fill(~seen, float("-inf")), count) & seen
        pool = (self._token - self._first).clamp(min=0) // self._size
        by_key = best.transpose(1, 2)[self._text, pool].transpose(1, 2)
        return by_key & self._real_keys[:, None]

    def tails(self, rows: int) -> Tensor:
        """The keys ``[B, S, T]`` that a row sees behind the last pool that it has seen whole."""
        seen = self._real_keys[:, None] & (self._token <= self._rows(rows))
        before = seen.long().sum(-1, keepdim=True) // self._size * self._size
        return seen & (self._token >= self._first[:, None] + before)

    def _rows(self, count: int) -> Tensor:
        """The places ``[S, 1]`` of the last rows."""
        length = self._token.shape[0]
        return torch.arange(length - count, length)[:, None]
