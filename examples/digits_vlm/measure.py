"""Ask one side of the demo every held-out question: the eager model, or its bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from digits_vlm.data import Images
from digits_vlm.evaluate import AnswerFn, QuestionSet, held_out_questions
from digits_vlm.tokenizer import PAD

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_SIZE = 64
# Asked one at a time: enough for a median, too few to be waited for.
SINGLE_QUESTIONS = 60

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """``images [B, 8, 8]`` and ``tokens [B, S]``, padded on the right; ``is_text [B, S]``."""

    images: Images
    tokens: npt.NDArray[np.int64]
    is_text: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The experts of T tokens, ``topk_ids [T, K]`` in ascending order.

    ``margins [T]``: how far the last logit that was chosen lies above the first that was not.
    """

    topk_ids: Ids
    margins: Floats


RouteFn = Callable[[Prompts], dict[str, tuple[Floats, Ids]]]
"""By MoE layer: ``router_logits [B * (patches + S), E]`` and ``topk_ids`` of as many rows."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one side answered and what that took.

    ``batched`` is in seconds per question, BATCH_SIZE at a time; ``single`` the median time of a
    question asked alone.  ``routing``, by MoE layer, is that of all tokens of all prompts without
    padding.
    """

    answers: list[str]
    batched: float
    single: float
    routing: dict[str, Routing]

    def save(self, path: Path) -> None:
        """Write it as an ``.npz`` file."""
        np.savez(
            path,
            answers=np.array(self.answers),
            seconds=np.array([self.batched, self.single]),
            layers=np.array(list(self.routing)),
            topk_ids=np.stack([routing.topk_ids for routing in self.routing.values()]),
            margins=np.stack([routing.margins for routing in self.routing.values()]),
        )

    @classmethod
    def load(cls, path: Path) -> Measured:
        """What ``save`` wrote."""
        with np.load(path) as file:
            batched, single = file["seconds"].tolist()
            layers = zip(file["layers"].tolist(), file["topk_ids"], file["margins"], strict=True)
            return cls(
                answers=file["answers"].tolist(),
                batched=batched,
                single=single,
                routing={name: Routing(topk_ids=i, margins=m) for name, i, m in layers},
            )


def measure(answer_fn: AnswerFn, route_fn: RouteFn, tokenizer: Tokenizer) -> Measured:
    """Ask every held-out question, in batches and some alone, and see who is routed where."""
    asked = held_out_questions()
    texts = [question.text for question in asked.questions]
    answer_fn(asked.images[:BATCH_SIZE], texts[:BATCH_SIZE])  # the first run is always slow

    answers: list[str] = []
    started = time.perf_counter()
    for start in range(0, len(texts), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        answers += answer_fn(asked.images[rows], texts[rows])
    batched = (time.perf_counter() - started) / len(texts)

    singles = []
    for row in range(min(SINGLE_QUESTIONS, len(texts))):
        started = time.perf_counter()
        answer_fn(asked.images[row : row + 1], texts[row : row + 1])
        singles.append(time.perf_counter() - started)
    return Measured(
        answers=answers,
        batched=batched,
        single=float(np.median(singles)),
        routing=_routing(route_fn, tokenizer, asked),
    )


def _routing(route_fn: RouteFn, tokenizer: Tokenizer, asked: QuestionSet) -> dict[str, Routing]:
    ids: dict[str, list[Ids]] = {}
    margins: dict[str, list[Floats]] = {}
    for prompts in _prompts(tokenizer, asked):
        for layer, (router_logits, topk_ids) in route_fn(prompts).items():
            patches = len(topk_ids) // len(prompts.tokens) - prompts.tokens.shape[1]
            counted = np.pad(prompts.is_text, ((0, 0), (patches, 0)), constant_values=True).ravel()
            descending = -np.sort(-router_logits[counted], axis=-1)
            top_k = topk_ids.shape[-1]
            ids.setdefault(layer, []).append(np.sort(topk_ids[counted], axis=-1))
            margins.setdefault(layer, []).append(descending[:, top_k - 1] - descending[:, top_k])
    return {
        layer: Routing(topk_ids=np.concatenate(ids[layer]), margins=np.concatenate(margins[layer]))
        for layer in ids
    }


def _prompts(tokenizer: Tokenizer, asked: QuestionSet) -> Iterator[Prompts]:
    """Every question of ``asked`` without its answer, in order."""
    pad = tokenizer.token_to_id(PAD)
    for start in range(0, len(asked.questions), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        ids = [tokenizer.encode(question.text).ids for question in asked.questions[rows]]
        lengths = np.array([len(prompt) for prompt in ids])
        is_text = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.full(is_text.shape, pad, np.int64)
        tokens[is_text] = np.concatenate(ids)
        yield Prompts(images=asked.images[rows], tokens=tokens, is_text=is_text)
