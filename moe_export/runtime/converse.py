"""Answers of a bundle with a cache: the prompt runs once, then each token alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

import numpy as np

from moe_export.dialogue import FILE_NAME, Dialogue
from moe_export.errors import UnsafeInputError, UnsupportedError, UsageError
from moe_export.forms import Array
from moe_export.runtime.asking import Asking
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.cache import Cache, require_outputs
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.features import Features
from moe_export.runtime.greedy import greedy, no_features
from moe_export.runtime.images import ImageLike
from moe_export.runtime.options import Prompt
from moe_export.runtime.seen import Seen
from moe_export.runtime.session import Session
from moe_export.runtime.text import asset, tokenizer_of
from moe_export.strict_json import decode, parse

MAX_IMAGE_BYTES = 1 << 28
"""Of features that are kept where nobody says: 16 images of 1,024 features of 4,096 numbers."""


class Conversation:
    """A bundle of ``embed``, ``decoder`` and, where it sees, ``vision``, that answers in text.

    ``max_cache_tokens`` is the most that the cache of an answer, with its prompt, may hold, and
    ``max_image_bytes`` how much of images' features is kept.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        *,
        threads: int | None = None,
        max_cache_tokens: int | None = None,
        max_image_bytes: int = MAX_IMAGE_BYTES,
    ) -> None:
        self.bundle = Bundle.of(bundle)
        self.max_cache_tokens = max_cache_tokens
        where = str(self.bundle.path / FILE_NAME)
        content = asset(self.bundle, FILE_NAME)
        self.dialogue = decode(Dialogue, parse(content, where), where, defaults=True)
        self.tokenizer = tokenizer_of(self.bundle)
        self.asking = Asking(self.dialogue, self.tokenizer, str(self.bundle.path))
        self._refuse_another_token()
        names = ["embed", "decoder", *(["vision"] if self.dialogue.images else [])]
        self.sessions = {
            name: Session(self.bundle, component=name, threads=threads) for name in names
        }
        require_outputs(self.sessions["decoder"])
        self._features: Features | None = None
        if "vision" in self.sessions:
            vision, embed = self.sessions["vision"], self.sessions["embed"]
            self._features = Features(vision, embed, max_bytes=max_image_bytes)

    def see(self, image: ImageLike) -> Seen:
        """An image made ready, as the dialogue says.

        Raises ``UnsupportedError`` where it does not, ``UsageError`` for a model without eyes.
        """
        if self.dialogue.images is None and "vision" in self.bundle.manifest.components:
            reason = self.dialogue.no_images or "the bundle does not say how"
            raise UnsupportedError(
                f"images are not made ready as this model takes them: {reason}",
                where=str(self.bundle.path),
                hint="run its vision, embed and decoder on arrays",
            )
        return self.asking.see(image)

    def encode(self, prompt: Prompt, images: Sequence[Seen] = ()) -> list[int]:
        """The ids of a user's words as the model is asked, features of images in their places.

        Ids are checked and given back.
        """
        return self.asking.encode(prompt, images)

    def close(self) -> None:
        """Free the graphs' memory once the runs under way have ended."""
        for session in self.sessions.values():
            session.close()

    def cache(self) -> Cache:
        """An empty one, for one text."""
        return Cache(self.sessions["decoder"], max_tokens=self.max_cache_tokens)

    def features(
        self, images: Sequence[Seen], cancel: Cancellation | None = None
    ) -> dict[str, Array]:
        """What ``embed`` takes beside text; of images that were seen before, what was kept."""
        if not images or self._features is None:
            return no_features(self.sessions["embed"])
        return self._features.of(images, cancel)

    def tokens(
        self,
        ids: Sequence[int],
        images: Sequence[Seen] = (),
        *,
        max_new_tokens: int | None = None,
    ) -> Iterator[int]:
        """The ids of the greedy answer to a prompt of ``ids`` about images, of ``see``."""
        limit = self.dialogue.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise UsageError(f"max_new_tokens must be 1 or more, got {limit}")
        room = max(0, self.dialogue.max_length - len(ids))
        steps = self.steps(ids, images)
        tokens = (token for token, _ in islice(steps, min(limit, room)))
        return takewhile(lambda token: token not in self.dialogue.eos_token_ids, tokens)

    def steps(self, ids: Sequence[int], images: Sequence[Seen] = ()) -> Iterator[tuple[int, Array]]:
        """Each next token behind a prompt of ``ids``, with its logits; endless, as ``greedy``.

        Nothing of earlier prompts is used.
        """
        return greedy(
            self.sessions["embed"],
            self.cache(),
            ids=np.array([ids], np.int64),
            features=self.features(images),
            positions=self.asking.positions(ids, images),
        )

    def _refuse_another_token(self) -> None:
        """Features go where ``token_id`` is: it must be what the tokenizer makes of ``token``."""
        recipe = self.dialogue.images
        if recipe is not None and self.tokenizer.token_to_id(recipe.token) != recipe.token_id:
            raise UnsafeInputError(
                f"the tokenizer knows {recipe.token!r:.80} under another id than {recipe.token_id}",
                where=str(self.bundle.path / FILE_NAME),
            )
