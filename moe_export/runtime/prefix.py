"""What prompts have in common, and the cache that one leaves behind for the next."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_export.runtime.cache import Cache
from moe_export.runtime.seen import Seen

Key = int | bytes
"""What a place of a text is: a token's id, or the digest of the image that it is a feature of."""


@dataclass(frozen=True)
class Text:
    """A prompt as a cache may hold it."""

    keys: tuple[Key, ...]
    spans: tuple[tuple[int, int], ...]
    """Where each image begins and ends: features see one another, so that none is cut."""

    @classmethod
    def of(cls, ids: Sequence[int], token: int | None, images: Sequence[Seen]) -> Text:
        """Of a prompt's ids, whose image ``token`` stands for the features of ``images``."""
        keys: list[Key] = list(ids)
        places = np.flatnonzero(np.asarray(ids) == token) if images else np.zeros(0, np.int64)
        spans, first = [], 0
        for image in images:
            own = places[first : first + image.features].tolist()
            first += image.features
            spans.append((own[0], own[-1] + 1))
            for place in own:
                keys[place] = image.digest
        return cls(tuple(keys), tuple(spans))

    def shared_with(self, held: Sequence[Key]) -> int:
        """How many tokens both begin with; at least one of this text's is not among them."""
        pairs = zip(self.keys[:-1], held, strict=False)
        shared = next((n for n, (own, other) in enumerate(pairs) if own != other), None)
        length = min(len(self.keys) - 1, len(held)) if shared is None else shared
        return next((start for start, end in self.spans if start < length < end), length)


class Prefixes:
    """The cache of the last answer, for the next one; whoever takes it has it alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[Cache, tuple[Key, ...]] | None = None
        self._is_open = True

    def take(self, text: Text) -> Cache | None:
        """The cache that was left, cut back to what ``text`` begins with, if it has some of it."""
        with self._lock:
            kept = self._kept
            if kept is None:
                return None
            cache, held = kept
            shared = text.shared_with(held)
            if shared == 0 or not (shared == len(held) or cache.can_be_cut):
                return None
            self._kept = None
        cache.cut(shared)
        return cache

    def leave(self, cache: Cache, keys: Sequence[Key]) -> None:
        """Leave ``cache``, which holds a text of these keys, in the place of an earlier one.

        One that is of one prompt is of no use to another text, and is not kept.
        """
        if cache.is_of_one_prompt:
            return
        with self._lock:
            if self._is_open and cache.length:
                self._kept = cache, tuple(keys[: cache.length])

    def close(self) -> None:
        """Let go of it, and take none any more."""
        with self._lock:
            self._kept, self._is_open = None, False
