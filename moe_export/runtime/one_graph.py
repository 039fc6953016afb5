"""Answers of a bundle of one graph: the whole sequence runs again for each token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moe_export.errors import UnsafeInputError, UnsupportedError, UsageError
from moe_export.forms import Array
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.generation_config import CONFIG, GenerationConfig
from moe_export.runtime.options import Images, Prompt
from moe_export.runtime.preprocess import ImagePreprocessor
from moe_export.runtime.session import Session
from moe_export.runtime.speaker import Decoding, Ready, Speaker, listed
from moe_export.runtime.text import tokenizer_of


class OneGraph(Speaker):
    """A bundle with ``generation_config.json``.

    It has ``tokenizer.json`` too, and ``preprocessor_config.json`` where the model takes an image:
    then each request has one.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        self.bundle = bundle
        self.config = GenerationConfig.from_bundle(bundle)
        self.preprocessor = ImagePreprocessor.from_bundle(bundle)
        self.tokenizer = tokenizer_of(bundle)
        self.session = Session(bundle, threads=threads)
        self.ends = frozenset([self.config.eos_token_id])
        self.max_new_tokens, self.max_length = self.config.max_new_tokens, self.config.max_length
        self._check_signature()

    def ready(self, image: Images, prompt: Prompt) -> Ready:
        given = self.tokenizer.encode(prompt).ids if isinstance(prompt, str) else prompt
        ids = tuple(map(int, given))
        if not ids:
            raise UsageError("the prompt holds no token", hint="ask something")
        if len(ids) >= self.max_length:
            raise UsageError(
                f"the prompt has {len(ids)} tokens; with one for the answer the model takes"
                f" {self.max_length}",
                hint="ask something shorter",
            )
        return Ready(ids=ids, images=self._prepared(image))

    def begin(self, prompts: Sequence[Ready]) -> Decoding:
        return _Rerun(self, prompts)

    def close(self) -> None:
        self.session.close()

    def _prepared(self, image: Images) -> list[Array]:
        images = listed(image)
        if self.preprocessor is None:
            if images:
                raise UsageError("the model takes no image", where=str(self.bundle.path))
            return []
        if not images:
            raise UsageError("the model needs an image", hint="give one with the prompt")
        if len(images) > 1:
            raise UsageError("the model takes one image", where=str(self.bundle.path))
        return [self.preprocessor.prepare(images[0])]

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
        self.logits = self.config.logits_output or self.session.output_names[0]
        if self.logits not in self.session.output_names:
            raise UnsafeInputError(
                f"logits_output {self.logits!r} is not an output of the graph",
                where=str(self.bundle.path / CONFIG),
            )
        text = next(i for i in self.session.inputs if i.name == self.config.text_input)
        self.token_dtype = np.dtype(text.dtype)


class _Rerun(Decoding):
    """Rows padded on the right: a causal model's logits do not depend on what follows."""

    def __init__(self, model: OneGraph, prompts: Sequence[Ready]) -> None:
        self._model = model
        self.reused = [0] * len(prompts)
        self._texts = [list(prompt.ids) for prompt in prompts]
        self._images = None
        if model.preprocessor is not None:
            self._images = np.stack([prompt.images[0] for prompt in prompts])

    def logits(self, cancel: Cancellation) -> Array:
        config, preprocessor = self._model.config, self._model.preprocessor
        lengths = np.array([len(text) for text in self._texts])
        tokens = np.full(
            (lengths.size, lengths.max()), config.pad_token_id, self._model.token_dtype
        )
        for row, text in zip(tokens, self._texts, strict=True):
            row[: len(text)] = text
        inputs = {config.text_input: tokens}
        if preprocessor is not None and self._images is not None:
            inputs[preprocessor.image_input] = self._images
        name = self._model.logits
        made = self._model.session.run(inputs, outputs=[name], cancel=cancel)[name]
        last: Array = made[np.arange(lengths.size), lengths - 1]
        return last

    def follow(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        self._texts = [[*self._texts[row], token] for row, token in zip(rows, tokens, strict=True)]
        if self._images is not None and len(rows) < len(self._images):
            self._images = self._images[list(rows)]

    def close(self) -> None:
        """It holds nothing that others wait for."""
