"""One answer as it comes about: its tokens, its text, and why it ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from moe_export.forms import Array
from moe_export.runtime.options import Options
from moe_export.runtime.sampling import next_token
from moe_export.runtime.stopping import StopStrings
from moe_export.runtime.text import Pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FinishReason = Literal["stop", "stop_string", "length", "cancelled"]
"""The model ended it; a stop string came; there is no room or wish for more; nobody wants it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was answered to one request."""

    text: str
    """In front of the stop string, if one ended it."""

    ids: tuple[int, ...]
    """The tokens of it, those of a stop string included and the one that ends an answer not."""

    finish_reason: FinishReason

    prompt_ids: tuple[int, ...]
    """What stood in front of it, as the model was asked."""

    reused_tokens: int = field(default=0, compare=False)
    """How many of those did not have to run, being what the last text began with too."""


class Speech:
    """An answer under way; ``limit`` is the most tokens that it may have."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: Options,
        *,
        prompt: Sequence[int],
        limit: int,
        ends: Collection[int],
    ) -> None:
        self._options, self._limit, self._ends = options, limit, ends
        self._pieces, self._stops = Pieces(tokenizer), StopStrings(options.stop)
        self._prompt, self._said = tuple(prompt), set(prompt)
        self._ids: list[int] = []
        self._text: list[str] = []
        self.finish_reason: FinishReason | None = None if limit > 0 else "length"

    @property
    def last(self) -> int:
        """The token that came last."""
        return self._ids[-1]

    def take(self, logits: Array) -> str:
        """Choose the next token by its ``logits [V]``; the text that can be said now, or none."""
        step = len(self._ids)
        token = next_token(logits, self._options, said=self._said, step=step)
        if token in self._ends:
            return self._told(self._rest("stop"))
        self._ids.append(token)
        self._said.add(token)
        piece = self._stops.push(self._pieces.push(token))
        if self._stops.found:
            self.finish_reason = "stop_string"
        elif step + 1 == self._limit:
            piece += self._rest("length")
        return self._told(piece)

    def cancel(self) -> None:
        """End it here, with the text that was said, unless it has ended."""
        self.finish_reason = self.finish_reason or "cancelled"

    def answer(self, reused_tokens: int) -> Answer:
        """What there is of it; one that has not ended yet counts as cancelled."""
        return Answer(
            text="".join(self._text),
            ids=tuple(self._ids),
            finish_reason=self.finish_reason or "cancelled",
            prompt_ids=self._prompt,
            reused_tokens=reused_tokens,
        )

    def _rest(self, reason: FinishReason) -> str:
        self.finish_reason = reason
        rest = self._stops.push(self._pieces.finish())
        if self._stops.found:
            self.finish_reason = "stop_string"
            return rest
        return rest + self._stops.finish()

    def _told(self, piece: str) -> str:
        self._text.append(piece)
        return piece
