"""``generation_config.json``: what a bundle of one graph answers with."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from moe_export.runtime.bundle import Bundle
from moe_export.runtime.preprocess import refuse_unknown_keys
from moe_export.runtime.text import asset
from moe_export.strict_json import decode, parse

CONFIG = "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Which input and output are text, and when to stop."""

    text_input: str
    eos_token_id: int
    pad_token_id: int
    max_new_tokens: int
    max_length: int
    """Of prompt and answer together, in tokens."""

    logits_output: str | None = None
    """``[B, S, V]`` over the text positions; the first output if ``None``."""

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.max_length) < 1:
            raise ValueError("max_new_tokens and max_length are 1 or more")
        if min(self.eos_token_id, self.pad_token_id) < 0:
            raise ValueError("a token id is negative")

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self:
        where = str(bundle.path / CONFIG)
        value = parse(asset(bundle, CONFIG), where)
        refuse_unknown_keys(value, {field.name for field in fields(cls)}, where)
        return decode(cls, value, where, defaults=True)
