"""Text in and out of a bundle: its tokenizer, and an answer's tokens as pieces of text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from moe_export.errors import MissingEnvironmentError, UnsafeInputError, UsageError
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.images import ImageLike

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"

# What a tokenizer decodes bytes to that are not a whole letter yet.
_HALF_LETTER = "\N{REPLACEMENT CHARACTER}"


class Answers(ABC):
    """What answers a prompt about an image with text."""

    @abstractmethod
    def stream(
        self,
        image: ImageLike | Sequence[ImageLike] | None = None,
        prompt: str = "",
        *,
        max_new_tokens: int | None = None,
    ) -> Iterator[str]:
        """The answer piece by piece, each as soon as its letters are whole."""

    def generate(
        self,
        image: ImageLike | Sequence[ImageLike] | None = None,
        prompt: str = "",
        *,
        max_new_tokens: int | None = None,
    ) -> str:
        """The answer to ``prompt`` about ``image``."""
        return "".join(self.stream(image, prompt, max_new_tokens=max_new_tokens))


def asset(bundle: Bundle, name: str) -> bytes:
    """A file that text needs; ``UsageError`` where the bundle has none."""
    content = bundle.asset(name)
    if content is None:
        raise UsageError(
            f"the bundle has no {name}, so it cannot answer in text",
            where=str(bundle.path),
            hint="run it on arrays with moe_export.Session, or export with the model's assets",
        )
    return content


def tokenizer_of(bundle: Bundle) -> Tokenizer:
    """The bundle's own.  Raises ``UnsafeInputError`` for a file that is none."""
    content = asset(bundle, TOKENIZER)
    return parse_tokenizer(content, str(bundle.path / TOKENIZER))


def parse_tokenizer(content: bytes, where: str) -> Tokenizer:
    """A tokenizer of the bytes of its file, which lies at ``where``.

    Raises ``UnsafeInputError`` for bytes that are none.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise MissingEnvironmentError(
            f"text needs the tokenizers package: {error}", hint="pip install tokenizers"
        ) from error
    try:
        tokenizer: Tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:
        # The library raises Exception itself; any child of it but this one is another matter.
        if type(error) not in (Exception, UnicodeDecodeError):
            raise
        raise UnsafeInputError(f"not a tokenizer: {error}", where=where) from error
    return tokenizer


def text_of(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The text of an answer, without the tokens that are none."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return text


def pieces_of(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of ``tokens`` piece by piece, each as soon as its letters are whole."""
    heard: list[int] = []
    said = ""
    for token in tokens:
        heard.append(token)
        text = text_of(tokenizer, heard)
        if text.startswith(said) and text != said and not text.endswith(_HALF_LETTER):
            yield text[len(said) :]
            said = text
    # A tokenizer may have held something back, such as half a letter at the end.
    yield from filter(None, [text_of(tokenizer, heard)[len(said) :]])
