"""What a generator needs of a bundle, of one graph or of several: the next logits of some texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moe_export.forms import Array
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.images import ImageLike
from moe_export.runtime.options import Images, Prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A prompt and its images, checked and made ready to run."""

    ids: tuple[int, ...]
    images: Sequence[Any] = ()
    """As the speaker that made them takes them."""


class Decoding(ABC):
    """Texts under way side by side, a row each."""

    reused: list[int]
    """Of each prompt, how many of its tokens did not have to run; known with the first logits."""

    @abstractmethod
    def logits(self, cancel: Cancellation) -> Array:
        """``[rows, V]`` in float32: what each row leads to expect; valid until the next call.

        Runs what was not run yet.  Raises ``Cancelled``, and what a session's run raises.
        """

    @abstractmethod
    def follow(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Go on with these of the rows alone, each with its next token."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what the texts hold.  Closing twice is fine."""


class Speaker(ABC):
    """A bundle that goes on from prompts."""

    tokenizer: Tokenizer
    ends: frozenset[int]
    """The tokens that end an answer."""

    max_new_tokens: int
    """Tokens of an answer, where nobody asks for another number."""

    max_length: int
    """Of prompt and answer together, in tokens."""

    @abstractmethod
    def ready(self, image: Images, prompt: Prompt) -> Ready:
        """A request made ready, before anything runs.

        Raises ``UsageError`` for one that the model cannot be asked, ``MemoryBudgetError`` for one
        that has no room.
        """

    @abstractmethod
    def begin(self, prompts: Sequence[Ready]) -> Decoding:
        """Texts that begin with these prompts; nothing runs yet."""

    @abstractmethod
    def close(self) -> None:
        """Free the model's memory once the runs under way have ended."""


def listed(image: Images) -> list[ImageLike]:
    """The images of a request, in order."""
    if image is None:
        return []
    return list(image) if isinstance(image, list | tuple) else [image]  # type: ignore[list-item]
