"""What is asked for: a prompt, its images, and how the answer's tokens are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from moe_export.errors import UsageError
from moe_export.runtime.images import ImageLike

Images = ImageLike | Sequence[ImageLike] | None
"""One image, a list or tuple of several, or none."""

Prompt = str | Sequence[int]
"""A user's words, or ids of a whole prompt: those are taken as they are."""

_SEEDS = 2**64


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an answer is chosen; ``UsageError`` for what makes no sense.

    The default is greedy: each token is the one of the highest logit, the lower id where two are
    equal.
    """

    max_new_tokens: int | None = None
    """Tokens of the answer at most; the bundle's own number if ``None``."""

    temperature: float = 0.0
    """0: the likeliest token.  Else what logits are divided by before one is drawn."""

    top_k: int = 0
    """Only so many of the likeliest are drawn from; 0: all."""

    top_p: float = 1.0
    """Only the fewest of the likeliest are that together have this probability."""

    repetition_penalty: float = 1.0
    """Logits of tokens that prompt or answer hold: divided by it, or multiplied where negative."""

    seed: int = 0
    """Of the draws, below 2^64: equal seeds give equal draws, whatever runs beside."""

    stop: Sequence[str] = ()
    """The answer ends in front of the first of these strings that its text would hold."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        limit = 1 if self.max_new_tokens is None else self.max_new_tokens
        for name, value, is_right, range_ in (
            ("max_new_tokens", limit, limit >= 1, "1 or more"),
            ("temperature", self.temperature, _within(self.temperature, 0), "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                _within(self.repetition_penalty, 0) and self.repetition_penalty > 0,
                "above 0",
            ),
            ("seed", self.seed, 0 <= self.seed < _SEEDS, "0 or more and below 2^64"),
            ("stop", "an empty string", all(self.stop), "strings that are not empty"),
        ):
            if not is_right:
                raise UsageError(f"{name} must be {range_}, got {value}")


class Wishes(TypedDict, total=False):
    """The fields of ``Options`` as keywords."""

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    stop: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One of several that are answered together."""

    image: Images = None
    prompt: Prompt = ""
    options: Options = field(default_factory=Options)


def _within(value: float, least: float) -> bool:
    return math.isfinite(value) and value >= least
