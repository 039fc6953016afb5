"""Tokens and stop strings: the vectors that every runtime of the project gives, and what is odd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_export.errors import UnsupportedError, UsageError
from moe_export.runtime import Options
from moe_export.runtime.sampling import next_token, uniform
from moe_export.runtime.stopping import StopStrings

VECTORS = json.loads((Path(__file__).parents[1] / "embed" / "sampling.json").read_text())


@pytest.mark.parametrize("case", VECTORS["uniform"], ids=lambda case: str(case["seed"]))
def test_a_seed_draws_the_shared_numbers(case):
    assert [uniform(case["seed"], step) for step in range(len(case["u"]))] == case["u"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_tokens_are_the_shared_ones(case: dict[str, Any]):
    options, said, made = Options(**case["options"]), set(case["prompt"]), []
    for step, row in enumerate(case["logits"]):
        logits = np.array([float(value) for value in row], np.float32)
        made.append(next_token(logits, options, said=said, step=step))
        said.add(made[-1])
    assert made == case["ids"]


@pytest.mark.parametrize("case", VECTORS["stops"], ids=lambda case: "".join(case["pieces"]))
def test_what_is_said_in_front_of_stop_strings_is_the_shared_text(case: dict[str, Any]):
    stops, said = StopStrings(case["stop"]), []
    for piece in case["pieces"]:
        said.append(stops.push(piece))
        if stops.found:
            break
    said.append("" if stops.found else stops.finish())
    assert "".join(said) == "".join(case["said"])
    assert stops.found == case["stopped"]
    for number, so_far in enumerate(case["said"][:-1]):
        assert said[number] == so_far, "a piece came earlier or later than it may"


@settings(deadline=None, max_examples=200)
@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
    strings=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
def test_text_ends_in_front_of_a_stop_string_and_loses_nothing_else(pieces, strings):
    stops, said, heard = StopStrings(strings), "", ""
    for piece in pieces:
        said += stops.push(piece)
        heard += piece
        assert not any(string in said for string in strings)
        if stops.found:
            assert heard[len(said) :].startswith(tuple(strings))
            return
    assert said + stops.finish() == heard
    assert not any(string in heard for string in strings)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 1.0}, {"repetition_penalty": 2.0}, {"temperature": 1.0, "top_k": 1}],
)
def test_what_is_no_number_is_never_a_token(options):
    for place in (0, 3):
        logits = np.array([1, 2, 3, 4], np.float32)
        logits[place] = np.nan
        with pytest.raises(UnsupportedError, match="not numbers") as refusal:
            next_token(logits, Options(**options), said=[0, 1], step=2)
        assert refusal.value.where == "token 3 of the answer"


def test_draws_come_as_often_as_they_are_probable():
    """A chi-squared statistic of 7 degrees of freedom is below 30 but once in 10,000."""
    logits = np.array([0.5, -1, 2, 0, 1, -2, 0.25, 1.5], np.float32)
    shares = np.exp(logits.astype(np.float64))
    expected = 20_000 * shares / shares.sum()
    options = Options(temperature=1.0, seed=11)
    drawn = [next_token(logits, options, said=(), step=step) for step in range(20_000)]
    found = np.bincount(drawn, minlength=8)
    assert ((found - expected) ** 2 / expected).sum() < 30


@settings(deadline=None, max_examples=300)
@given(
    halves=st.lists(st.integers(-8, 8), min_size=1, max_size=24),
    top_k=st.integers(0, 10),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_draw_is_the_one_of_the_rules_spelt_out(halves, top_k, top_p, seed):
    """Many scores are equal here, and the lower id stands in front."""
    scores = [half / 2 for half in halves]
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    order = order[: top_k or None]
    shares = [float(np.exp(scores[token] - scores[order[0]])) for token in order]
    whole = sum(shares)
    running = [sum(share / whole for share in shares[: n + 1]) for n in range(len(shares))]
    kept = next((n for n, total in enumerate(running) if total >= top_p), len(running) - 1)
    limit = uniform(seed, 4) * running[kept]
    place = next(n for n, total in enumerate(running) if total > limit)
    # Another order of the same sums may decide where a sum is as near as this to a limit.
    near = min(abs(total - edge) for total in running for edge in (limit, top_p * (top_p < 1)))
    options = Options(temperature=1.0, top_k=top_k, top_p=top_p, seed=seed)
    token = next_token(np.array(scores, np.float32), options, said=(), step=4)
    assert token == order[place] or near < 1e-12


def test_an_infinite_logit_is_the_likeliest():
    logits = np.array([0, np.inf, 5], np.float32)
    assert next_token(logits, Options(temperature=1.0), said=(), step=0) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.01},
        {"repetition_penalty": 0},
        {"repetition_penalty": float("inf")},
        {"seed": -1},
        {"seed": 2**64},
        {"stop": ["x", ""]},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"^{name} must be"):
        Options(**wrong)


def test_one_stop_string_may_come_alone():
    assert Options(stop="x") == Options(stop=("x",))
