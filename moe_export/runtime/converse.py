"""Answers of a bundle with a cache: the prompt runs once, then each token alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import Any

import numpy as np

from moe_export.dialogue import FILE_NAME, Dialogue
from moe_export.errors import UnsafeInputError, UnsupportedError, UsageError
from moe_export.forms import Array
from moe_export.runtime.asking import Asking
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.cache import Cache, require_outputs
from moe_export.runtime.greedy import greedy, no_features
from moe_export.runtime.images import ImageLike
from moe_export.runtime.seen import Seen, side_by_side
from moe_export.runtime.session import Session
from moe_export.runtime.text import Answers, asset, pieces_of, tokenizer_of
from moe_export.strict_json import decode, parse


class Conversation(Answers):
    """A bundle of ``embed``, ``decoder`` and, where it sees, ``vision``, that answers in text.

    Decoding is greedy: each token is the one of the highest logit, the lower id where two are
    equal.  ``max_cache_tokens`` is the most that the cache of an answer, with its prompt, may hold.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        *,
        threads: int | None = None,
        max_cache_tokens: int | None = None,
    ) -> None:
        self.bundle = Bundle.of(bundle)
        self._max_cache_tokens = max_cache_tokens
        where = str(self.bundle.path / FILE_NAME)
        content = asset(self.bundle, FILE_NAME)
        self.dialogue = decode(Dialogue, parse(content, where), where, defaults=True)
        self.tokenizer = tokenizer_of(self.bundle)
        self.asking = Asking(self.dialogue, self.tokenizer, str(self.bundle.path))
        self._refuse_another_token()
        names = ["embed", "decoder", *(["vision"] if self.dialogue.images else [])]
        self._sessions = {
            name: Session(self.bundle, component=name, threads=threads) for name in names
        }
        require_outputs(self._sessions["decoder"])

    def stream(
        self,
        image: ImageLike | Sequence[ImageLike] | None = None,
        prompt: str = "",
        *,
        max_new_tokens: int | None = None,
    ) -> Iterator[str]:
        """The same answer piece by piece, each as soon as its letters are whole.

        ``image`` may be a list of several, which stand in front of the words in order.
        """
        images: list[Any] = [] if image is None else [image]
        if isinstance(image, list | tuple):
            images = list(image)
        seen = [self.see(each) for each in images]
        ids = self.encode(prompt, seen)
        tokens = self.tokens(ids, seen, max_new_tokens=max_new_tokens)
        return pieces_of(self.tokenizer, tokens)

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

    def encode(self, prompt: str, images: Sequence[Seen] = ()) -> list[int]:
        """The ids of a user's words as the model is asked, features of images in their places."""
        return self.asking.encode(prompt, images)

    def tokens(
        self,
        ids: Sequence[int],
        images: Sequence[Seen] = (),
        *,
        max_new_tokens: int | None = None,
    ) -> Iterator[int]:
        """The ids of the answer to a prompt of ``ids`` about images, of ``see``."""
        limit = self.dialogue.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise UsageError(f"max_new_tokens must be 1 or more, got {limit}")
        room = max(0, self.dialogue.max_length - len(ids))
        steps = self.steps(ids, images)
        tokens = (token for token, _ in islice(steps, min(limit, room)))
        return takewhile(lambda token: token not in self.dialogue.eos_token_ids, tokens)

    def steps(self, ids: Sequence[int], images: Sequence[Seen] = ()) -> Iterator[tuple[int, Array]]:
        """Each next token behind a prompt of ``ids``, with its logits; endless, as ``greedy``."""
        return greedy(
            self._sessions["embed"],
            Cache(self._sessions["decoder"], max_tokens=self._max_cache_tokens),
            ids=np.array([ids], np.int64),
            features=self._features(images),
            positions=self.asking.positions(ids, images),
        )

    def _features(self, images: Sequence[Seen]) -> dict[str, Array]:
        if not images:
            return no_features(self._sessions["embed"])
        made = self._sessions["vision"].run(side_by_side(images))
        rows, told = len(made["image_embeds"]), sum(image.features for image in images)
        if rows != told:
            raise UnsafeInputError(
                f"vision makes {rows} features of the images, and {FILE_NAME} says {told}",
                where=str(self.bundle.path),
            )
        return made

    def _refuse_another_token(self) -> None:
        """Features go where ``token_id`` is: it must be what the tokenizer makes of ``token``."""
        recipe = self.dialogue.images
        if recipe is not None and self.tokenizer.token_to_id(recipe.token) != recipe.token_id:
            raise UnsafeInputError(
                f"the tokenizer knows {recipe.token!r:.80} under another id than {recipe.token_id}",
                where=str(self.bundle.path / FILE_NAME),
            )
