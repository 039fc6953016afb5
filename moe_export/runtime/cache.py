"""What a decoder carries on: keys and values that grow where they lie, and states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from moe_export.errors import MemoryBudgetError, UnsafeInputError, UsageError
from moe_export.forms import Array
from moe_export.manifest import TensorInfo
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.session import Session

PAST, PRESENT = "past_", "present_"
"""How the names of a cache begin, as it goes into a decoder and as it comes out."""

_PROMPT = f"{PAST}prompt_"
"""What a decoder carries on that tells the tokens of a prompt from those that follow."""

LOGITS, MASK = "logits", "attention_mask"

ROOM_HINT = "allow more with max_cache_tokens, or ask for a shorter answer"

# Axes by the names that the graph has for their sizes: the tokens of a cache, those of a run.
_TOKENS, _BATCH, _RUN = "past", "batch", "sequence"

# Room for so many tokens behind a prompt: its answer need not begin with a copy of all caches.
_BEHIND_TOKENS = 256


class Cache:
    """What a decoder remembers of ``batch`` texts, from nothing on.

    Where the bundle says that a cache may grow in place, no run copies it: there is room behind it,
    and a run writes its own rows there.  Twice as much room and more is made whenever it is used
    up.  ``max_tokens`` is the most there will ever be, padding included.
    """

    def __init__(self, decoder: Session, *, batch: int = 1, max_tokens: int | None = None) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"a cache holds 1 token or more, not {max_tokens}")
        self._binding = decoder.bind()
        self._batch, self._max_tokens = batch, max_tokens
        self._pasts = [info for info in decoder.inputs if info.name.startswith(PAST)]
        require_outputs(decoder)
        in_place = decoder.component.in_place
        self._grow = {past for output, past in in_place.items() if output == _present(past)}
        self._length, self._room = 0, 0
        self._rows: dict[str, Array] = {}
        for info in self._pasts:
            self._lie_in(info, self._empty(info, 0))
        self._mask = np.ones((batch, 0), np.int64)
        (self._logits_info,) = (info for info in decoder.outputs if info.name == LOGITS)
        self._logits = self._zeros(self._logits_info, {_RUN: 1})
        self._binding.take(LOGITS, self._logits)

    @property
    def logits(self) -> Array:
        """``[B, S, V]`` of the last run, or ``[B, 1, V]`` of its last token; until the next run.

        ``Bundle.has_all_logits`` says which of both a decoder gives.
        """
        return self._logits

    @property
    def length(self) -> int:
        """The tokens of each text so far, padding included."""
        return self._length

    @property
    def can_be_cut(self) -> bool:
        """Whether it counts all that it holds by tokens; a state keeps what it has seen."""
        return all(_TOKENS in info.shape for info in self._pasts)

    @property
    def is_of_one_prompt(self) -> bool:
        """Whether what follows its prompt is attended to in another way than the prompt is.

        Then no other text is behind what it holds, be that the text's beginning.
        """
        return any(info.name.startswith(_PROMPT) for info in self._pasts)

    def tensors(self) -> dict[str, Array]:
        """The keys and values by their names as inputs: views of what the next run extends."""
        return {info.name: self._view(info, self._length) for info in self._pasts}

    def cut(self, length: int) -> None:
        """Forget all but the first ``length`` tokens.  Nothing is copied.

        Raises ``ValueError`` where there are fewer, or where it cannot be cut.
        """
        if length == self._length:
            return
        if not 0 <= length < self._length or not self.can_be_cut:
            raise ValueError(f"a cache of {self._length} tokens cannot be cut to {length}")
        for info in self._pasts:
            if info.name not in self._grow:
                self._rows[info.name] = self._rows[info.name][_part(info, tokens=slice(length))]
        self._length = length

    @classmethod
    def joined(
        cls,
        decoder: Session,
        texts: Sequence[Mapping[str, Array]],
        lengths: Sequence[int],
        *,
        max_tokens: int | None = None,
    ) -> Self:
        """A cache of several texts, from what ``tensors`` gives of each, of so many tokens.

        Shorter ones have padding in front.
        """
        made = cls(decoder, batch=len(texts), max_tokens=max_tokens)
        longest = max(lengths)
        made._make_room(longest)
        for info in made._pasts:
            if info.name not in made._grow:
                made._rows[info.name] = made._empty(info, longest)
            place = made._view(info, longest)
            for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
                rows, tokens = slice(row, row + 1), slice(longest - length, longest)
                place[_part(info, rows=rows, tokens=tokens)] = text[info.name]
        made._length = longest
        made._mask[:, :longest] = np.arange(longest) >= longest - np.array(lengths)[:, np.newaxis]
        return made

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these texts alone, in this order, without what is padding in all of them."""
        chosen = list(rows)
        mask = self._mask[chosen]
        padding = int(mask[:, : self._length].argmax(axis=1).min())
        self._mask, kept = mask[:, padding:], self._length - padding
        self._batch, self._room = len(chosen), self._room - padding
        for info in self._pasts:
            part = self._rows[info.name][_part(info, tokens=slice(padding, None))]
            self._lie_in(info, np.take(part, chosen, axis=info.shape.index(_BATCH)))
        self._length = kept
        self._logits = self._zeros(self._logits_info, {_RUN: 1})
        self._binding.take(LOGITS, self._logits)

    def run(
        self,
        inputs: Mapping[str, Array],
        mask: Array | None = None,
        cancel: Cancellation | None = None,
    ) -> Array:
        """The logits ``[B, V]`` of the last of the tokens that follow; valid until the next run.

        ``inputs`` are the decoder's own, ``inputs_embeds [B, S, H]`` among them; ``mask [B, S]`` is
        0 where a token is padding.  Raises ``MemoryBudgetError`` for more tokens than there may be,
        and what ``Session.run`` raises; the cache is then as it was.
        """
        count = inputs["inputs_embeds"].shape[1]
        after = self._length + count
        self._make_room(after)
        self._mask[:, self._length : after] = 1 if mask is None else mask
        for name, array in inputs.items():
            self._binding.give(name, array)
        self._binding.give(MASK, self._mask[:, :after])
        self._binding.grow(self._length, after)
        made = {i.name: self._empty(i, after) for i in self._pasts if i.name not in self._grow}
        for name, array in made.items():
            self._binding.give(name, self._rows[name])
            self._binding.take(_present(name), array)
        if _RUN in self._logits_info.shape and self._logits.shape[1] != count:
            self._logits = self._zeros(self._logits_info, {_RUN: count})
            self._binding.take(LOGITS, self._logits)
        self._binding.run(cancel)
        self._length = after
        self._rows |= made
        last: Array = self._logits[:, -1]
        return last

    def _lie_in(self, info: TensorInfo, rows: Array) -> None:
        """A cache, and the room behind it, or a state."""
        self._rows[info.name] = rows
        if info.name in self._grow:
            self._binding.hold(info.name, _present(info.name), rows)

    def _view(self, info: TensorInfo, length: int) -> Array:
        rows = self._rows[info.name]
        return rows[:length] if info.name in self._grow else rows

    def _make_room(self, tokens: int) -> None:
        if self._max_tokens is not None and tokens > self._max_tokens:
            raise MemoryBudgetError(
                f"the cache is full: it may hold {self._max_tokens} tokens,"
                f" this run makes {tokens}",
                hint=ROOM_HINT,
            )
        if tokens <= self._room:
            return
        room = max(tokens, 2 * self._room) + _BEHIND_TOKENS
        self._room = room if self._max_tokens is None else min(room, self._max_tokens)
        for info in self._pasts:
            if info.name in self._grow:
                longer = self._empty(info, self._room)
                longer[: self._length] = self._view(info, self._length)
                self._lie_in(info, longer)
        mask = np.ones((self._batch, self._room), np.int64)
        mask[:, : self._length] = self._mask[:, : self._length]
        self._mask = mask

    def _empty(self, info: TensorInfo, tokens: int) -> Array:
        """Zeros, of which a state that has no tokens is made at first."""
        grows = info.name in self._grow
        if info.shape.count(_TOKENS) > 1 or (grows and info.shape[:1] != (_TOKENS,)):
            raise UnsafeInputError(f"a cache that does not count its tokens: {info}")
        return self._zeros(info, {_TOKENS: tokens})

    def _zeros(self, info: TensorInfo, sizes: Mapping[str, int]) -> Array:
        """As the graph has it, for the batch and with these sizes for names."""
        known = {_BATCH: self._batch, **sizes}
        shape = [known.get(size, size) if isinstance(size, str) else size for size in info.shape]
        if not all(isinstance(size, int) for size in shape):
            raise UnsafeInputError(f"sizes that a cache does not know: {info}")
        return np.zeros([int(size or 0) for size in shape], info.dtype)


def _part(info: TensorInfo, **axes: slice) -> tuple[slice, ...]:
    """An index of ``rows`` of the batch and of ``tokens``, where a cache counts them."""
    named: dict[Any, slice] = {
        _BATCH: axes.get("rows", slice(None)),
        _TOKENS: axes.get("tokens", slice(None)),
    }
    return tuple(named.get(size, slice(None)) for size in info.shape)


def require_outputs(decoder: Session) -> None:
    """Refuse a decoder that does not give what goes in as ``past_``, and logits beside it."""
    taken = [name for name in decoder.input_names if name.startswith(PAST)]
    missing = sorted({LOGITS, *map(_present, taken)} - set(decoder.output_names))
    if missing:
        raise UnsafeInputError(
            f"the decoder gives no {missing[0]!r:.80}", where=str(decoder.bundle.path)
        )


def _present(past: str) -> str:
    """What comes out for what goes in."""
    return PRESENT + past.removeprefix(PAST)
