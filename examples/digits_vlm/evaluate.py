"""Exact-match accuracy on held-out images, for whatever can answer questions about images.

Only ``eager_answer_fn`` needs PyTorch: an exported bundle is judged by the same questions
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from digits_vlm.data import Digits, Images, split_digits
from digits_vlm.questions import KINDS, Question, ask

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from digits_vlm.model import DigitsVLM

AnswerFn = Callable[[Images, list[str]], list[str]]
"""From images ``[N, 8, 8]`` and N questions to N answers."""

QUESTION_SEED = 7
MAX_NEW_TOKENS = 8  # "t h r e e" is five tokens and <eos>


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """``questions[i]`` is about ``images[i]``."""

    images: Images
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The share of ``count`` questions answered exactly, overall and by kind of question."""

    overall: float
    by_kind: dict[str, float]
    count: int


def held_out_questions(
    *, seed: int = QUESTION_SEED, digits: Digits | None = None, kinds: Sequence[str] = KINDS
) -> QuestionSet:
    """One question of each kind about every held-out image (or about ``digits``).

    The same seed asks the same questions in the same order.
    """
    if digits is None:
        _, digits = split_digits()
    rng = np.random.default_rng(seed)
    questions = tuple(ask(int(label), kind, rng) for label in digits.labels for kind in kinds)
    return QuestionSet(images=np.repeat(digits.images, len(kinds), axis=0), questions=questions)


def accuracy(
    answer_fn: AnswerFn, question_set: QuestionSet | None = None, *, batch_size: int = 256
) -> Accuracy:
    """How many answers equal the right one, letter for letter; ``batch_size`` per call."""
    question_set = question_set or held_out_questions()
    questions = question_set.questions
    answers: list[str] = []
    for start in range(0, len(questions), batch_size):
        texts = [question.text for question in questions[start : start + batch_size]]
        answers += answer_fn(question_set.images[start : start + batch_size], texts)
    right = np.array(
        [answer == question.answer for answer, question in zip(answers, questions, strict=True)]
    )
    kind = np.array([question.kind for question in questions])
    return Accuracy(
        overall=float(right.mean()),
        by_kind={name: float(right[kind == name].mean()) for name in dict.fromkeys(kind.tolist())},
        count=len(questions),
    )


def eager_answer_fn(model: DigitsVLM, tokenizer: Tokenizer) -> AnswerFn:
    """Answers by ``model``: greedy, token by token, until ``<eos>`` or MAX_NEW_TOKENS."""
    import torch

    from digits_vlm.tokenizer import EOS, PAD

    eos, pad = tokenizer.token_to_id(EOS), tokenizer.token_to_id(PAD)

    @torch.inference_mode()
    def answer(images: Images, questions: list[str]) -> list[str]:
        model.eval()
        prompts = [encoding.ids for encoding in tokenizer.encode_batch(questions)]
        starts = torch.tensor([len(prompt) for prompt in prompts])
        tokens = torch.full((len(prompts), int(starts.max()) + MAX_NEW_TOKENS), pad)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)

        image, rows = torch.from_numpy(images), torch.arange(len(prompts))
        finished = torch.zeros(len(prompts), dtype=torch.bool)
        for ends in (starts + step for step in range(MAX_NEW_TOKENS)):
            logits = model(image, tokens[:, : int(ends.max())])
            chosen = logits[rows, ends - 1].argmax(dim=-1)
            finished |= chosen == eos
            if finished.all():
                break
            tokens[rows, ends] = torch.where(finished, pad, chosen)
        generated = [row[start:].tolist() for row, start in zip(tokens, starts, strict=True)]
        return tokenizer.decode_batch(generated)

    return answer
