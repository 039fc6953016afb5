"""Answers as text: a prompt and an image in, greedy decoding, text out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from moe_export.errors import UnsafeInputError, UnsupportedError, UsageError
from moe_export.forms import Array
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.images import ImageLike
from moe_export.runtime.preprocess import ImagePreprocessor, refuse_unknown_keys
from moe_export.runtime.session import Session
from moe_export.runtime.text import Answers, asset, pieces_of, text_of, tokenizer_of
from moe_export.strict_json import decode, parse

CONFIG = "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """``generation_config.json``: which input and output are text, and when to stop."""

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


class Generator(Answers):
    """A bundle that answers in text.

    Needs ``tokenizer.json`` and ``generation_config.json`` in the bundle, and
    ``preprocessor_config.json`` where the model takes an image.  Decoding is greedy: each token is
    the one of the highest logit, the lower id where two are equal.
    """

    def __init__(self, bundle: Bundle | str | os.PathLike[str], *, threads: int | None = None):
        self.bundle = Bundle.of(bundle)
        self.config = GenerationConfig.from_bundle(self.bundle)
        self.preprocessor = ImagePreprocessor.from_bundle(self.bundle)
        self.tokenizer = tokenizer_of(self.bundle)
        self.session = Session(self.bundle, threads=threads)
        self._check_signature()

    def stream(
        self,
        image: ImageLike | Sequence[ImageLike] | None = None,
        prompt: str = "",
        *,
        max_new_tokens: int | None = None,
    ) -> Iterator[str]:
        """The same answer piece by piece, each as soon as its letters are whole.

        Several images are what a bundle with a cache may take; here they are a ``UsageError``.
        """
        if isinstance(image, list | tuple):
            raise UsageError("the model takes one image", where=str(self.bundle.path))
        images: list[Any] | None = None if image is None else [image]
        steps = self._steps(images, [prompt], max_new_tokens)
        return pieces_of(self.tokenizer, (step[0] for step in steps))

    def answer(
        self,
        images: Sequence[ImageLike] | Array | None,
        prompts: Sequence[str],
        *,
        max_new_tokens: int | None = None,
        batch_size: int = 64,
    ) -> list[str]:
        """One answer for each of ``prompts``, the ``i``-th about ``images[i]``.

        Rows run ``batch_size`` at a time, padded on the right: a causal model's logits at a row's
        last token do not depend on what follows.
        """
        if images is not None and len(images) != len(prompts):
            raise UsageError(f"{len(images)} images for {len(prompts)} prompts")
        if batch_size < 1:
            raise UsageError(f"batch_size must be 1 or more, got {batch_size}")
        answers: list[str] = []
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            some = None if images is None else images[rows]
            answers += self._answer(some, prompts[rows], max_new_tokens)
        return answers

    def _answer(
        self,
        images: Sequence[ImageLike] | Array | None,
        prompts: Sequence[str],
        max_new_tokens: int | None,
    ) -> list[str]:
        tokens: list[list[int]] = [[] for _ in prompts]
        for step in self._steps(images, prompts, max_new_tokens):
            for row, token in step.items():
                tokens[row].append(token)
        return [text_of(self.tokenizer, row) for row in tokens]

    def _steps(
        self,
        images: Sequence[ImageLike] | Array | None,
        prompts: Sequence[str],
        max_new_tokens: int | None,
    ) -> Iterator[dict[int, int]]:
        """Check the request now; then, for each new position, the next token of each open row."""
        encoded = [self._encode(prompt) for prompt in prompts]
        fixed = self._image_inputs(images)
        limit = self.config.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise UsageError(f"max_new_tokens must be 1 or more, got {limit}")
        return self._decode_greedily(encoded, fixed, limit)

    def _decode_greedily(
        self, prompts: list[list[int]], fixed: Mapping[str, Array], limit: int
    ) -> Iterator[dict[int, int]]:
        """One run of the whole sequence for each new token; finished rows leave the batch."""
        lengths = np.array([len(prompt) for prompt in prompts])
        width = min(int(lengths.max()) + limit, self.config.max_length)
        tokens = np.full((len(prompts), width), self.config.pad_token_id, np.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        open_rows = np.flatnonzero(lengths < width)
        for _ in range(limit):
            if not open_rows.size:
                return
            chosen = self._next_tokens(tokens, lengths, open_rows, fixed)
            going_on = chosen != self.config.eos_token_id
            open_rows, chosen = open_rows[going_on], chosen[going_on]
            tokens[open_rows, lengths[open_rows]] = chosen
            lengths[open_rows] += 1
            if open_rows.size:
                yield dict(zip(open_rows.tolist(), chosen.tolist(), strict=True))
            open_rows = open_rows[lengths[open_rows] < width]

    def _next_tokens(
        self, tokens: Array, lengths: Array, rows: Array, fixed: Mapping[str, Array]
    ) -> Array:
        """The likeliest token after each of ``rows``; ``tokens [N, width]``."""
        longest = lengths[rows].max()
        inputs = {name: array[rows] for name, array in fixed.items()}
        inputs[self.config.text_input] = tokens[rows, :longest].astype(self._token_dtype)
        logits = self.session.run(inputs, outputs=[self._logits])[self._logits]
        last = logits[np.arange(rows.size), lengths[rows] - 1]
        choice: Array = last.argmax(axis=-1)
        return choice

    def _encode(self, prompt: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(prompt).ids
        if not ids:
            raise UsageError("the prompt holds no token", hint="ask something")
        if len(ids) >= self.config.max_length:
            raise UsageError(
                f"the prompt has {len(ids)} tokens; with one for the answer the model takes"
                f" {self.config.max_length}",
                hint="ask something shorter",
            )
        return ids

    def _image_inputs(self, images: Sequence[ImageLike] | Array | None) -> dict[str, Array]:
        if self.preprocessor is None:
            if images is not None:
                raise UsageError("the model takes no image", where=str(self.bundle.path))
            return {}
        if images is None:
            raise UsageError("the model needs an image", hint="give one with the prompt")
        prepared = [self.preprocessor.prepare(image) for image in images]
        return {self.preprocessor.image_input: np.stack(prepared)}

    def _check_signature(self) -> None:
        """Refuse a configuration that names other inputs or outputs than the graph has."""
        named = {self.config.text_input}
        if self.preprocessor is not None:
            named.add(self.preprocessor.image_input)
        if named != set(self.session.input_names):
            raise UnsupportedError(
                f"the graph takes {sorted(self.session.input_names)},"
                f" generation gives {sorted(named)}",
                where=str(self.bundle.path / CONFIG),
            )
        self._logits = self.config.logits_output or self.session.output_names[0]
        if self._logits not in self.session.output_names:
            raise UnsafeInputError(
                f"logits_output {self._logits!r} is not an output of the graph",
                where=str(self.bundle.path / CONFIG),
            )
        text = next(i for i in self.session.inputs if i.name == self.config.text_input)
        self._token_dtype = np.dtype(text.dtype)
