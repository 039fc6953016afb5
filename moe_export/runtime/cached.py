"""Answers of a bundle with a cache, one alone or several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_export.errors import MemoryBudgetError
from moe_export.forms import Array
from moe_export.runtime.cache import ROOM_HINT, Cache
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.converse import Conversation
from moe_export.runtime.greedy import no_features, step
from moe_export.runtime.options import Images, Prompt
from moe_export.runtime.prefix import Key, Prefixes, Text
from moe_export.runtime.speaker import Decoding, Ready, Speaker, listed


class Cached(Speaker):
    """A conversation whose prompts begin behind what they have in common with the last text.

    ``reuse_prefix`` says whether they do.
    """

    def __init__(self, conversation: Conversation, *, reuse_prefix: bool) -> None:
        dialogue = conversation.dialogue
        self.conversation = conversation
        self.tokenizer = conversation.tokenizer
        self.ends = frozenset(dialogue.eos_token_ids)
        self.max_new_tokens, self.max_length = dialogue.max_new_tokens, dialogue.max_length
        self.prefixes = Prefixes()
        if not reuse_prefix:
            self.prefixes.close()

    def ready(self, image: Images, prompt: Prompt) -> Ready:
        seen = [self.conversation.see(each) for each in listed(image)]
        ids = self.conversation.encode(prompt, seen)
        room = self.conversation.max_cache_tokens
        if room is not None and len(ids) > room:
            raise MemoryBudgetError(
                f"the cache is full: it may hold {room} tokens, the prompt has {len(ids)}",
                hint=ROOM_HINT,
            )
        return Ready(ids=tuple(ids), images=seen)

    def begin(self, prompts: Sequence[Ready]) -> Decoding:
        return _Alone(self, prompts[0]) if len(prompts) == 1 else _Together(self, prompts)

    def close(self) -> None:
        self.prefixes.close()
        self.conversation.close()


@dataclass
class _Begun:
    """A text whose prompt has run."""

    cache: Cache
    keys: list[Key]
    logits: Array
    """``[1, V]``, until the cache runs again."""

    following: Array
    """``[..., 1, 1]``: the position of the token that follows."""

    reused: int
    """How many tokens of it the cache held before."""


class _Alone(Decoding):
    """One text, whose cache is left for the next."""

    def __init__(self, speaker: Cached, prompt: Ready) -> None:
        self._speaker, self._prompt = speaker, prompt
        self._begun: _Begun | None = None
        self.reused = [0]

    def logits(self, cancel: Cancellation) -> Array:
        begun = self._begun
        if begun is None:
            begun = self._begun = _begin(self._speaker, self._prompt, cancel)
            self.reused = [begun.reused]
            return begun.logits
        embed = self._speaker.conversation.sessions["embed"]
        logits = step(
            embed,
            begun.cache,
            ids=np.array([begun.keys[-1:]], np.int64),
            features=no_features(embed),
            positions=begun.following,
            cancel=cancel,
        )
        begun.following = begun.following + 1
        return logits

    def follow(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        if self._begun is not None:
            self._begun.keys += tokens

    def close(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            self._speaker.prefixes.leave(begun.cache, begun.keys)


class _Together(Decoding):
    """Several texts behind one cache.

    Each prompt runs alone, so that its first token is what it would be alone.  The caches are
    joined then, shorter ones with padding in front, and the next tokens of all rows are one run.
    """

    def __init__(self, speaker: Cached, prompts: Sequence[Ready]) -> None:
        self._speaker, self._prompts = speaker, prompts
        self.reused = [0] * len(prompts)
        self._cache: Cache | None = None
        self._tokens: Array = np.zeros((0, 1), np.int64)
        self._positions: Array = np.zeros((0, 1), np.int64)
        """``[..., B, 1]``, of the tokens that run next."""

    def logits(self, cancel: Cancellation) -> Array:
        if self._cache is None:
            return self._run_prompts(cancel)
        embed = self._speaker.conversation.sessions["embed"]
        logits = step(
            embed,
            self._cache,
            ids=self._tokens,
            features=no_features(embed),
            positions=self._positions,
            cancel=cancel,
        )
        self._positions = self._positions + 1
        return logits

    def follow(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        if self._cache is not None and len(rows) < self._positions.shape[-2]:
            self._cache.keep(rows)
            self._positions = np.take(self._positions, rows, axis=-2)
        self._tokens = np.array(tokens, np.int64)[:, np.newaxis]

    def close(self) -> None:
        self._cache = None

    def _run_prompts(self, cancel: Cancellation) -> Array:
        logits, positions, caches = [], [], []
        for number, prompt in enumerate(self._prompts):
            begun = _begin(self._speaker, prompt, cancel)
            self.reused[number] = begun.reused
            logits.append(begun.logits.copy())
            positions.append(begun.following)
            caches.append({name: each.copy() for name, each in begun.cache.tensors().items()})
            self._speaker.prefixes.leave(begun.cache, begun.keys)
        self._positions = np.concatenate(positions, axis=-2)
        self._cache = Cache.joined(
            self._speaker.conversation.sessions["decoder"],
            caches,
            [len(prompt.ids) for prompt in self._prompts],
            max_tokens=self._speaker.conversation.max_cache_tokens,
        )
        return np.concatenate(logits)


def _begin(speaker: Cached, prompt: Ready, cancel: Cancellation) -> _Begun:
    """Run a prompt behind what it has in common with the last text."""
    talk = speaker.conversation
    recipe = talk.dialogue.images
    text = Text.of(prompt.ids, None if recipe is None else recipe.token_id, prompt.images)
    cache = speaker.prefixes.take(text) or talk.cache()
    known = cache.length
    places = zip(prompt.images, text.spans, strict=True)
    unknown = [image for image, (start, _) in places if start >= known]
    positions = talk.asking.positions(prompt.ids, prompt.images)
    try:
        logits = step(
            talk.sessions["embed"],
            cache,
            ids=np.array([prompt.ids[known:]], np.int64),
            features=talk.features(unknown, cancel),
            positions=np.ascontiguousarray(positions[..., known:]),
            cancel=cancel,
        )
    except BaseException:
        speaker.prefixes.leave(cache, text.keys)  # it holds what it held
        raise
    following = np.full((*positions.shape[:-1], 1), positions.max() + 1, np.int64)
    return _Begun(cache, list(text.keys), logits, following, known)
