"""Answers of a bundle with a cache: the prompt runs once, then each token alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_export.dialogue import FILE_NAME, Dialogue
from moe_export.errors import UnsafeInputError, UnsupportedError, UsageError
from moe_export.forms import Array
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.images import ImageLike
from moe_export.runtime.patches import patches_of
from moe_export.runtime.positions import mrope_positions, plain_positions
from moe_export.runtime.session import Session
from moe_export.runtime.text import asset, pieces_of, tokenizer_of
from moe_export.strict_json import decode, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

_PAST, _PRESENT = "past_", "present_"


class Conversation:
    """A bundle of ``embed``, ``decoder`` and, where it sees, ``vision``, that answers in text.

    Decoding is greedy: each token is the one of the highest logit, the lower id where two are
    equal.
    """

    def __init__(self, bundle: Bundle | str | os.PathLike[str], *, threads: int | None = None):
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        where = str(self.bundle.path / FILE_NAME)
        content = asset(self.bundle, FILE_NAME)
        self.dialogue = decode(Dialogue, parse(content, where), where, defaults=True)
        self.tokenizer = tokenizer_of(self.bundle)
        self._refuse_another_token()
        names = ["embed", "decoder", *(["vision"] if self.dialogue.patches else [])]
        self._sessions = {
            name: Session(self.bundle, component=name, threads=threads) for name in names
        }
        self._decoder = self._sessions["decoder"]
        self._refuse_missing_outputs()

    def generate(
        self,
        image: ImageLike | None = None,
        prompt: str = "",
        *,
        max_new_tokens: int | None = None,
    ) -> str:
        """The answer to ``prompt`` about ``image``."""
        return "".join(self.stream(image, prompt, max_new_tokens=max_new_tokens))

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
        limit = min(limit, self.dialogue.max_length - len(ids))
        features = self._features(images)
        return self._decode(list(ids), [grid for _, grid in images], features, limit)

    def _decode(
        self, ids: list[int], grids: list[Array], features: dict[str, Array], limit: int
    ) -> Iterator[int]:
        positions = self._positions(ids, grids)
        following = int(positions.max()) + 1
        cache = self._empty_cache()
        length = 0
        for _ in range(limit):
            length += len(ids)
            made = self._decoder.run(
                {
                    **self._embedded(ids, features),
                    "position_ids": positions,
                    "attention_mask": np.ones((1, length), np.int64),
                    **cache,
                }
            )
            token = int(made["logits"][0, -1].argmax())
            if token in self.dialogue.eos_token_ids:
                return
            yield token
            cache = {
                _PAST + name.removeprefix(_PRESENT): array
                for name, array in made.items()
                if name.startswith(_PRESENT)
            }
            ids, features = [token], self._no_features
            positions = self._text_positions(following)
            following += 1

    def _embedded(self, ids: list[int], features: Mapping[str, Array]) -> dict[str, Array]:
        return self._sessions["embed"].run({"input_ids": np.array([ids], np.int64), **features})

    def _positions(self, ids: list[int], grids: list[Array]) -> Array:
        recipe = self.dialogue.patches
        if self.dialogue.positions == "plain":
            return plain_positions(0, len(ids))
        token, merge = (recipe.token_id, recipe.merge_size) if recipe else (-1, 1)
        return mrope_positions(ids, token, grids, merge)

    def _text_positions(self, start: int) -> Array:
        one = plain_positions(start, 1)
        return one if self.dialogue.positions == "plain" else np.stack([one] * 3)

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
            return self._no_features
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

    def _refuse_missing_outputs(self) -> None:
        """What goes in as ``past_`` comes out as ``present_``, and logits beside it."""
        taken = [name for name in self._decoder.input_names if name.startswith(_PAST)]
        wanted = ["logits", *(_PRESENT + name.removeprefix(_PAST) for name in taken)]
        missing = sorted(set(wanted) - set(self._decoder.output_names))
        if missing:
            raise UnsafeInputError(
                f"the decoder gives no {missing[0]!r:.80}", where=str(self.bundle.path)
            )

    @property
    def _no_features(self) -> dict[str, Array]:
        """What ``embed`` takes beside text where there is no image: no rows."""
        taken = [info for info in self._sessions["embed"].inputs if info.name != "input_ids"]
        return {info.name: _no_rows(info.shape, info.dtype) for info in taken}

    def _empty_cache(self) -> dict[str, Array]:
        taken = [info for info in self._decoder.inputs if info.name.startswith(_PAST)]
        return {info.name: _no_rows((1, *info.shape[1:]), info.dtype) for info in taken}


def _no_rows(shape: Sequence[int | str | None], dtype: str) -> Array:
    return np.zeros([size if isinstance(size, int) else 0 for size in shape], dtype)
