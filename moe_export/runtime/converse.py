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
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.cache import Cache, require_outputs
from moe_export.runtime.greedy import greedy, no_features
from moe_export.runtime.images import ImageLike
from moe_export.runtime.patches import patches_of
from moe_export.runtime.positions import mrope_positions, plain_positions
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
        self._refuse_another_token()
        names = ["embed", "decoder", *(["vision"] if self.dialogue.patches else [])]
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
        seen = [self._patches(each) for each in images]
        ids = self.encode(prompt, [grid for _, grid in seen])
        tokens = self.tokens(ids, seen, max_new_tokens=max_new_tokens)
        return pieces_of(self.tokenizer, tokens)

    def encode(self, prompt: str, grids: Sequence[Array] = ()) -> list[int]:
        """The ids of a user's words as the model is asked, features of images in their places."""
        form, recipe = self.dialogue.prompt, self.dialogue.patches
        text = form.before
        for grid in grids:
            if recipe is None or form.image is None:
                raise UsageError("the model takes no image", where=str(self.bundle.path))
            text += form.image.replace(recipe.token, recipe.token * self._features_of(grid))
        text += prompt + form.after
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            raise UsageError("the prompt holds no token", hint="ask something")
        features = sum(map(self._features_of, grids))
        if recipe is not None and ids.count(recipe.token_id) != features:
            raise UsageError(
                f"the prompt holds {recipe.token!r}, which stands for a part of an image",
                hint="ask in other words; images stand in front of them",
            )
        if len(ids) >= self.dialogue.max_length:
            raise UsageError(
                f"the prompt has {len(ids)} tokens; with one for the answer the model takes"
                f" {self.dialogue.max_length}",
                hint="ask something shorter, or show a smaller image",
            )
        return ids

    def tokens(
        self,
        ids: Sequence[int],
        images: Sequence[tuple[Array, Array]] = (),
        *,
        max_new_tokens: int | None = None,
    ) -> Iterator[int]:
        """The ids of the answer to a prompt of ``ids`` about images, of ``patches_of``."""
        limit = self.dialogue.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise UsageError(f"max_new_tokens must be 1 or more, got {limit}")
        room = max(0, self.dialogue.max_length - len(ids))
        steps = greedy(
            self._sessions["embed"],
            Cache(self._sessions["decoder"], max_tokens=self._max_cache_tokens),
            ids=np.array([ids], np.int64),
            features=self._features(images),
            positions=self._positions(ids, [grid for _, grid in images]),
        )
        tokens = (token for token, _ in islice(steps, min(limit, room)))
        return takewhile(lambda token: token not in self.dialogue.eos_token_ids, tokens)

    def _positions(self, ids: Sequence[int], grids: list[Array]) -> Array:
        recipe = self.dialogue.patches
        if self.dialogue.positions == "plain":
            return plain_positions(0, len(ids))
        token, merge = (recipe.token_id, recipe.merge_size) if recipe else (-1, 1)
        return mrope_positions(ids, token, grids, merge)

    def _patches(self, image: ImageLike) -> tuple[Array, Array]:
        if self.dialogue.patches is None and "vision" in self.bundle.manifest.components:
            raise UnsupportedError(
                "images are not made into patches as this model takes them yet",
                where=str(self.bundle.path),
                hint="run its vision, embed and decoder on arrays",
            )
        if self.dialogue.patches is None:
            raise UsageError("the model takes no image", where=str(self.bundle.path))
        return patches_of(image, self.dialogue.patches)

    def _features_of(self, grid: Array) -> int:
        """How many features an image of ``grid`` becomes."""
        merge = self.dialogue.patches.merge_size if self.dialogue.patches else 1
        return int(np.prod(grid)) // merge**2

    def _features(self, images: Sequence[tuple[Array, Array]]) -> dict[str, Array]:
        if not images:
            return no_features(self._sessions["embed"])
        patches, grids = zip(*images, strict=True)
        return self._sessions["vision"].run(
            {"pixel_values": np.concatenate(patches), "image_grid_thw": np.stack(grids)}
        )

    def _refuse_another_token(self) -> None:
        """Features go where ``token_id`` is: it must be what the tokenizer makes of ``token``."""
        recipe = self.dialogue.patches
        if recipe is not None and self.tokenizer.token_to_id(recipe.token) != recipe.token_id:
            raise UnsafeInputError(
                f"the tokenizer knows {recipe.token!r:.80} under another id than {recipe.token_id}",
                where=str(self.bundle.path / FILE_NAME),
            )
