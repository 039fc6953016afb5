"""Text in and out of a bundle: its tokenizer, and an answer's tokens as pieces of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_export.errors import MissingEnvironmentError, UnsafeInputError, UsageError
from moe_export.runtime.bundle import Bundle

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"

# What a tokenizer decodes bytes to that are not a whole letter yet.
_HALF_LETTER = "\N{REPLACEMENT CHARACTER}"


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


class Pieces:
    """The text of tokens that come one by one, each piece as soon as its letters are whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._heard: list[int] = []
        self._said = ""

    def push(self, token: int) -> str:
        """What can be said of the text now, beyond what was."""
        self._heard.append(token)
        text = text_of(self._tokenizer, self._heard)
        if not text.startswith(self._said) or text.endswith(_HALF_LETTER):
            return ""
        piece = text[len(self._said) :]
        self._said = text
        return piece

    def finish(self) -> str:
        """What a tokenizer held back, such as half a letter at the end."""
        return text_of(self._tokenizer, self._heard)[len(self._said) :]
