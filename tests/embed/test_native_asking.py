"""A prompt and images in C++ become the ids, positions and inputs of the Python runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from bundle.toy import bigram_model
from moe_export.dialogue import Dialogue
from moe_export.errors import MoeExportError, UnsafeInputError, UnsupportedError, UsageError
from moe_export.runtime.asking import Asking
from moe_export.strict_json import decode, render
from pretrained_models import IDS, tokenizer

from .probe import ask
from .test_native_images import outcome, random_pixels

IMAGE = "<|image_pad|>"
COMMON: dict[str, Any] = {
    "token": IMAGE,
    "token_id": IDS[IMAGE],
    "rescale_factor": 1 / 255,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.5, 0.25, 0.3],
}
PATCHES = {
    **COMMON,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 64,
    "max_pixels": 2048,
}
TILES = {**COMMON, "height": 16, "width": 16, "features": 3, "fit": "scale", "max_tiles": 4}
PIECES = {
    **TILES,
    "fit": "whole",
    "max_tiles": 1,
    "before_whole": "<|vision_end|>",
    "crops": {
        "side": 12,
        "features": 2,
        "fit": "window",
        "largest": 50,
        "before": "<|vision_start|>",
        "between_rows": "\n",
    },
}
PROMPT = {
    "before": "<|im_start|>user\n",
    "after": "<|im_end|>\n<|im_start|>assistant\n",
    "image": f"<|vision_start|>{IMAGE}<|vision_end|>",
}


def dialogue(**changes: Any) -> dict[str, Any]:
    return {
        "positions": "mrope",
        "eos_token_ids": [IDS["<|im_end|>"]],
        "max_length": 600,
        "max_new_tokens": 20,
        "prompt": PROMPT,
        "patches": PATCHES,
        **changes,
    }


PLAIN = dialogue(positions="plain")
CUT = dialogue(positions="plain", patches=None, tiles={**TILES, "before_whole": "<|im_end|>"})
BLIND = dialogue(patches=None, prompt={**PROMPT, "image": None})
DIALOGUES = {
    "mrope": dialogue(),
    "plain": PLAIN,
    "newline": dialogue(patches={**PATCHES, "layout": "flat_rows", "newline": True}),
    "rows": dialogue(
        positions="plain",
        patches={**PATCHES, "fit": "edge", "max_side": 40, "between_rows": "<|vision_end|>"},
    ),
    "cells": dialogue(
        positions="plain",
        patches={
            **PATCHES,
            "merge_size": 1,
            "fit": "zoom",
            "layout": "cells",
            "zoom": 1.2,
            "max_side": 60,
        },
    ),
    "canvas": dialogue(patches={**PATCHES, "fit": "canvas"}),
    "count": dialogue(
        positions="plain", patches={**PATCHES, "fit": "count", "layout": "flat_rows"}
    ),
    "pad": dialogue(positions="plain", patches={**PATCHES, "fit": "pad"}),
    "tiles": CUT,
    "pieces": dialogue(positions="plain", patches=None, tiles=PIECES),
    "blind": BLIND,
}


@pytest.fixture(scope="module")
def core() -> Tokenizer:
    return tokenizer().backend_tokenizer


@dataclass(frozen=True)
class Asked:
    ids: list[int]
    arrays: dict[str, np.ndarray]


def of_python(said: dict[str, Any], core: Tokenizer, prompt: str, images: list) -> Asked:
    read = decode(Dialogue, json.loads(json.dumps(said)), "dialogue.json", defaults=True)
    asking = Asking(read, core, "dialogue.json")
    seen = [asking.see(image) for image in images]
    made = asking.ask(prompt, seen)
    return Asked(made.ids[0].tolist(), {**made.images, "positions": made.positions})


def of_native(said: dict[str, Any], core: Tokenizer, prompt: str, images: list) -> Asked:
    number = ask("open", core.to_str().encode(), where="tokenizer.json").said["tokenizer"]
    sizes = [image.shape[:2] for image in images]
    content = b"".join(image.tobytes() for image in images) + prompt.encode()
    made = ask("ask", content, dialogue=render(said), tokenizer=number, images=sizes)
    return Asked(made.said["ids"], made.arrays)


def require_same(said: dict[str, Any], core: Tokenizer, prompt: str, images: list) -> None:
    expected = outcome(lambda: of_python(said, core, prompt, images))
    found = outcome(lambda: of_native(said, core, prompt, images))
    if not isinstance(expected, Asked):
        assert found[0] is expected[0]
        return
    assert found.ids == expected.ids
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


SIZES = st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), max_size=3)
WORDS = st.one_of(
    st.text(max_size=30), st.sampled_from(["what is it?", f"a {IMAGE}", "<|im_end|>"])
)


@pytest.mark.parametrize("said", DIALOGUES.values(), ids=DIALOGUES.keys())
@settings(deadline=None, max_examples=60)
@given(prompt=WORDS, sizes=SIZES)
def test_a_question_is_the_python_runtimes(said, core, prompt, sizes):
    images = [random_pixels(height, width) for height, width in sizes]
    require_same(said, core, prompt, images)


@pytest.mark.parametrize("sizes", [[], [(14, 14)], [(14, 14)] * 2, [(14, 14), (30, 20), (9, 9)]])
def test_images_that_are_cut_and_that_are_not_stand_side_by_side(sizes, core):
    images = [random_pixels(height, width) for height, width in sizes]
    require_same(DIALOGUES["pieces"], core, "what is it?", images)
    if sizes:
        pieces = of_native(DIALOGUES["pieces"], core, "x", images).arrays["pixel_values_local"]
        assert pieces.shape == (6 if (30, 20) in sizes else 1, 3, 12, 12)


REFUSED = {
    "of too many tokens": (PLAIN, "x" * 600, 0, UsageError, "tokens; with one for the answer"),
    "with the image's token": (PLAIN, IMAGE, 1, UsageError, "stands for a part of an image"),
    "with an image for the blind": (BLIND, "x", 1, UsageError, "takes no image"),
    "without a recipe": (
        {**BLIND, "no_images": "it cuts them"},
        "x",
        1,
        UnsupportedError,
        "as this model takes them: it cuts them",
    ),
    "of nothing": (
        dialogue(prompt={**PROMPT, "before": "", "after": ""}),
        "",
        0,
        UsageError,
        "holds no token",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_question_that_cannot_be_asked_is_refused(case, core):
    said, prompt, images, kind, message = case
    with pytest.raises(kind, match=message):
        of_native(said, core, prompt, [random_pixels(8, 8)] * images)


BROKEN = {
    "a length of 0": dialogue(max_length=0),
    "a negative id": dialogue(eos_token_ids=[-1]),
    "both recipes": dialogue(positions="plain", tiles=TILES),
    "no place for an image": dialogue(prompt={**PROMPT, "image": "x"}),
    "two places for one": dialogue(prompt={**PROMPT, "image": IMAGE * 2}),
    "tiles on a grid": dialogue(patches=None, tiles=TILES),
    "another token": dialogue(patches={**PATCHES, "token_id": 3}),
    "another word": dialogue(positions="rope"),
    "a new key": dialogue(voice="deep"),
    "pieces without a side": dialogue(
        positions="plain", patches=None, tiles={**PIECES, "crops": {**PIECES["crops"], "side": 0}}
    ),
    "pieces of several tiles": dialogue(
        positions="plain", patches=None, tiles={**PIECES, "max_tiles": 2}
    ),
    "no prompt": {key: value for key, value in dialogue().items() if key != "prompt"},
    "a spread of 0": dialogue(patches={**PATCHES, "std": [1, 0, 1]}),
    "a fraction of an id": dialogue(max_length=1.5),
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN.keys())
def test_a_dialogue_that_makes_no_sense_is_refused_by_file(said, core):
    with pytest.raises(UnsafeInputError) as refusal:
        of_native(said, core, "x", [])
    assert refusal.value.where.startswith("dialogue.json")


def test_numbers_that_are_none_are_refused(core):
    number = ask("open", core.to_str().encode(), where="t").said["tokenizer"]
    for word in ("NaN", "Infinity", "1e999"):
        said = render(dialogue()).replace("0.00392156862745098", word)
        assert word in said
        with pytest.raises(UnsafeInputError):
            ask("ask", b"x", dialogue=said, tokenizer=number, images=[])


CONFIG = {
    "text_input": "tokens",
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_new_tokens": 5,
    "max_length": 12,
}


def single(prompt: str, **changes: Any) -> dict[str, Any]:
    content = bigram_model().portable.assets["tokenizer.json"]
    number = ask("open", content, where="tokenizer.json").said["tokenizer"]
    config = json.dumps({**CONFIG, **changes})
    return dict(ask("single", prompt.encode(), config=config, tokenizer=number).said)


def test_a_prompt_of_a_bundle_of_one_graph_is_the_python_runtimes():
    content = bigram_model().portable.assets["tokenizer.json"]
    core = Tokenizer.from_str(content.decode())
    for prompt in ("which digit", "seven which nine digit", "unheard"):
        assert single(prompt)["ids"] == core.encode(prompt).ids
    assert single("digit", logits_output="scores")["logits_output"] == "scores"


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"num_beams": 4}, UnsupportedError, "unknown setting 'num_beams'"),
        ({"max_length": 0}, UnsafeInputError, "1 or more"),
        ({"eos_token_id": -1}, UnsafeInputError, "negative"),
        ({"eos_token_id": "<eos>"}, UnsafeInputError, "expected an integer"),
        ({"max_length": 2}, UsageError, "something shorter|tokens; with one"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, kind, message):
    with pytest.raises(kind, match=message):
        single("which digit", **changes)


def test_a_setting_of_images_that_would_be_ignored_is_refused():
    config = {"image_input": "image", "size": {"height": 2, "width": 2}, "do_pan_and_scan": True}
    with pytest.raises(UnsupportedError, match="unknown setting 'do_pan_and_scan'"):
        ask("prepare", random_pixels(2, 2), height=2, width=2, config=json.dumps(config))
    for changes in ({"mode": "CMYK"}, {"layout": "HW"}, {"image_std": [0, 1, 1]}, {"size": {}}):
        wrong = {"image_input": "image", "size": {"height": 2, "width": 2}, **changes}
        with pytest.raises(MoeExportError):
            ask("prepare", random_pixels(2, 2), height=2, width=2, config=json.dumps(wrong))
