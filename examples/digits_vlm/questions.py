"""Questions about one digit and their answers, both as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)

PHRASINGS = {
    "name": (
        "which digit is this?",
        "what digit do you see?",
        "what number is written here?",
        "read the digit.",
    ),
    "parity": (
        "is it even or odd?",
        "even or odd?",
        "is this digit odd or even?",
        "is the number even or odd?",
    ),
    "compare": (
        "is it greater than {number}?",
        "is this digit greater than {number}?",
        "is the number greater than {number}?",
    ),
    "match": (
        "is this {a_number}?",
        "is it {a_number}?",
        "do you see {a_number}?",
        "is the digit {a_number}?",
    ),
    "next": (
        "what comes next?",
        "what is one more?",
        "which number follows it?",
        "what do you get if you add one?",
    ),
    "spell": (
        "spell it out.",
        "how is it spelled?",
        "spell this digit.",
        "write its name letter by letter.",
    ),
}

KINDS = tuple(PHRASINGS)


@dataclass(frozen=True, kw_only=True)
class Question:
    """``text`` asks something of ``kind`` about an image; ``answer`` is the one right reply."""

    kind: str
    text: str
    answer: str


@cache
def questions_about(digit: int, kind: str) -> tuple[Question, ...]:
    """Every question of ``kind`` that can be asked about an image of ``digit``."""
    return tuple(
        Question(kind=kind, text=phrasing.format(**words), answer=answer)
        for words, answer in _facts(digit, kind)
        for phrasing in PHRASINGS[kind]
    )


def ask(digit: int, kind: str, rng: np.random.Generator) -> Question:
    """One question of ``kind`` about ``digit``: first an answer is drawn, then its question.

    So where a digit can have both, "yes" and "no" are equally frequent, and guessing earns a half.
    """
    by_answer = _by_answer(digit, kind)
    questions = by_answer[rng.integers(len(by_answer))]
    return questions[rng.integers(len(questions))]


@cache
def _by_answer(digit: int, kind: str) -> tuple[tuple[Question, ...], ...]:
    questions = questions_about(digit, kind)
    return tuple(
        tuple(question for question in questions if question.answer == answer)
        for answer in sorted({question.answer for question in questions})
    )


def _facts(digit: int, kind: str) -> Iterator[tuple[dict[str, str], str]]:
    """Words that fill a phrasing of ``kind``, and what is then true of ``digit``."""
    if kind == "name":
        yield {}, NUMBERS[digit]
    elif kind == "parity":
        yield {}, "odd" if digit % 2 else "even"
    elif kind == "compare":
        for number in range(10):
            yield {"number": NUMBERS[number]}, _yes(digit > number)
    elif kind == "match":
        for number in range(10):
            yield {"a_number": _with_article(NUMBERS[number])}, _yes(digit == number)
    elif kind == "next":
        yield {}, NUMBERS[digit + 1]
    elif kind == "spell":
        yield {}, " ".join(NUMBERS[digit])
    else:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _with_article(word: str) -> str:
    return f"an {word}" if word == "eight" else f"a {word}"
