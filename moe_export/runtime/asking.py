"""A question as the components take it: its tokens, their positions, and images made ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moe_export.dialogue import Dialogue, PatchRecipe, TileRecipe
from moe_export.errors import UsageError
from moe_export.forms import IMAGE, TEXT, Array, Asked
from moe_export.runtime.images import ImageLike
from moe_export.runtime.options import Prompt
from moe_export.runtime.patches import patches_of
from moe_export.runtime.positions import mrope_positions, plain_positions
from moe_export.runtime.seen import Seen, side_by_side
from moe_export.runtime.tiles import tiles_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Asking:
    """How prompts for one model are made ready.  ``where`` is what errors name."""

    def __init__(self, dialogue: Dialogue, tokenizer: Tokenizer, where: str) -> None:
        self._dialogue, self._tokenizer, self._where = dialogue, tokenizer, where

    def see(self, image: ImageLike) -> Seen:
        """An image made ready, as the dialogue says; ``UsageError`` where it says nothing."""
        match self._dialogue.images:
            case PatchRecipe() as recipe:
                return patches_of(image, recipe)
            case TileRecipe() as recipe:
                return tiles_of(image, recipe)
        raise self._blind()

    def encode(self, prompt: Prompt, images: Sequence[Seen] = ()) -> list[int]:
        """The ids of a user's words as the model is asked, features of images in their places.

        Ids of a whole prompt are given back.  Raises ``UsageError`` where there are none, too many,
        or not as many of the image's token as ``images`` have features.
        """
        ids = self._words(prompt, images) if isinstance(prompt, str) else list(map(int, prompt))
        if not ids:
            raise UsageError("the prompt holds no token", hint="ask something")
        self._check_places(ids, images)
        if len(ids) >= self._dialogue.max_length:
            raise UsageError(
                f"the prompt has {len(ids)} tokens; with one for the answer the model takes"
                f" {self._dialogue.max_length}",
                hint="ask something shorter, or show a smaller image",
            )
        return ids

    def _words(self, prompt: str, images: Sequence[Seen]) -> list[int]:
        form, recipe = self._dialogue.prompt, self._dialogue.images
        text = form.before
        for image in images:
            if recipe is None or form.image is None:
                raise self._blind()
            text += form.image.replace(recipe.token, image.text)
        text += prompt + form.after
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _check_places(self, ids: Sequence[int], images: Sequence[Seen]) -> None:
        """Refuse ids that hold the image's token for anything but the features of ``images``."""
        recipe = self._dialogue.images
        if recipe is None:
            return
        places = [place for place, token in enumerate(ids) if token == recipe.token_id]
        if len(places) != sum(image.features for image in images):
            raise UsageError(
                f"the prompt holds {recipe.token!r}, which stands for a part of an image",
                hint="ask in other words; images stand in front of them",
            )
        if self._dialogue.positions == "plain":
            return
        for image in images:
            own, places = places[: image.features], places[image.features :]
            if own[-1] - own[0] != image.features - 1:
                raise UsageError("something stands between the features of an image")

    def positions(self, ids: Sequence[int], images: Sequence[Seen] = ()) -> Array:
        """``[1, S]``, or ``[3, 1, S]`` for ``mrope``."""
        if self._dialogue.positions == "plain":
            return plain_positions(0, len(ids))
        recipe = self._dialogue.patches
        if recipe is None:
            return mrope_positions(ids, -1, [], 1)
        grids = [image.grid for image in images]
        return mrope_positions(
            ids, recipe.token_id, grids, recipe.merge_size, newline=recipe.newline
        )

    def ask(self, prompt: str, images: Sequence[Seen] = ()) -> Asked:
        """All that the components take."""
        ids, recipe = self.encode(prompt, images), self._dialogue.images
        array = np.array([ids], np.int64)
        token = None if recipe is None else recipe.token_id
        return Asked(
            ids=array,
            positions=self.positions(ids, images),
            modality=np.where(array == token, IMAGE, TEXT).astype(np.uint8),
            images=side_by_side(images) if images else {},
        )

    def _blind(self) -> UsageError:
        return UsageError("the model takes no image", where=self._where)
