"""A bundle of each family answers about a photograph what Transformers answers about it.

Transformers goes its own way: the family's processor with its tokenizer, then ``generate``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

import moe_export
from moe_export.load.pretrained.mended import mend
from moe_export.moe.families import ENCLOSING
from moe_export.runtime import Conversation
from pretrained_models import TEXT

from .talkers import TALKERS, Talker

LENGTH = 16
QUESTION = "what is it?"
END = TEXT["eos_token_id"]

# What a processor gives and no model takes: of the second where nothing was cut.
UNREAD, PIECES = "num_soft_tokens_per_image", ("pixel_values_local", "num_local_patches")
# Which some processors give as lists.
LISTS = ("num_local_patches", "patches_grid")


@dataclass(frozen=True)
class Answer:
    """The tokens, without the one that ends it, and the logits of the first."""

    tokens: list[int]
    logits: np.ndarray


def theirs(talker: Talker, model: Any, judge: Any, photos: list[Path]) -> Answer:
    parts = [{"type": "image"}] * len(photos) + [{"type": "text", "text": QUESTION}]
    text = judge.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a processor's own
        inputs = judge(
            text=[text],
            images=[Image.open(photo).convert("RGB") for photo in photos],
            add_special_tokens=False,
            return_tensors="pt",
        )
    lists = {name: inputs[name] for name in LISTS if isinstance(inputs.get(name), list)}
    inputs = {
        name: value.float() if value.is_floating_point() else value
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor) and name != UNREAD
    }
    if PIECES[0] in inputs:
        inputs |= lists
    else:
        inputs.pop(PIECES[1], None)
    made = model.generate(
        **inputs,
        max_new_tokens=LENGTH,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids: list[int] = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return Answer(ids[:-1] if ids[-1] == END else ids, made.logits[0][0].numpy())


def ours(speaker: Conversation, photos: list[Path]) -> Answer:
    seen = [speaker.see(photo) for photo in photos]
    ids = speaker.encode(QUESTION, seen)
    _, logits = next(speaker.steps(ids, seen))
    return Answer(list(speaker.tokens(ids, seen, max_new_tokens=LENGTH)), logits.copy())


def model_of(talker: Talker, folder: Path) -> Any:
    import transformers

    if talker.family in ENCLOSING:
        whole = transformers.AutoModelForTextToWaveform.from_pretrained(folder)
        model = getattr(whole, ENCLOSING[talker.family].within)
    else:
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    mend(model)
    return model.eval()


def apart(one: Answer, other: Answer) -> float:
    return float(np.abs(one.logits - other.logits).max())


@dataclass(frozen=True)
class Both:
    """A bundle, and what it was made of."""

    speaker: Conversation
    model: Any
    judge: Any

    def told(self, talker: Talker, photos: list[Path]) -> Answer:
        return theirs(talker, self.model, self.judge, photos)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By family, made once."""
    made: dict[str, Both] = {}

    def export(talker: Talker) -> Both:
        if not talker.has_pillow:
            pytest.importorskip("torchvision", reason="its processor needs it")
        if talker.family not in made:
            folder = tmp_path_factory.mktemp(talker.family)
            talker.save(folder / "model")
            moe_export.export(folder / "model", output=folder / "bundle")
            speaker = Conversation(folder / "bundle", threads=1)
            assert speaker.dialogue.images is not None, speaker.dialogue.no_images
            model, judge = model_of(talker, folder / "model"), talker.judge(folder / "model")
            made[talker.family] = Both(speaker, model, judge)
        return made[talker.family]

    return export


@pytest.mark.parametrize("talker", TALKERS, ids=lambda talker: talker.family)
def test_it_answers_about_photographs_what_transformers_answers(talker, photos, exported):
    both = exported(talker)
    asked = {"one": photos[:1], "the other": photos[1:], "both": photos}
    heard = {name: ours(both.speaker, shown) for name, shown in asked.items()}
    told = {name: both.told(talker, shown) for name, shown in asked.items()}
    assert {name: each.tokens for name, each in heard.items()} == {
        name: each.tokens for name, each in told.items()
    }
    # What the two make of one photograph differs by far less than two photographs do.
    difference = apart(told["one"], told["the other"])
    for name, each in heard.items():
        assert apart(each, told[name]) <= difference / 20, name


# Width and height, and the rows and columns of pieces.
CUT = {
    "step3p7": {(640, 427): [2, 3], (90, 80): [0, 0], (600, 70): [1, 9], (200, 24): [2, 2]},
    "unlimited_ocr": {(310, 300): [2, 2], (90, 80): [0, 0], (120, 400): [3, 1]},
    "deepseek_ocr2": {(900, 850): [2, 2], (90, 80): [0, 0], (800, 250): [1, 3]},
}


@pytest.mark.parametrize("family", CUT)
def test_what_is_cut_and_what_is_not_go_into_one_prompt(family, photos, exported, tmp_path):
    (talker,) = (each for each in TALKERS if each.family == family)
    both, shown = exported(talker), []
    for number, shape in enumerate(CUT[family]):
        shown.append(tmp_path / f"{number}.png")
        Image.open(photos[number % 2]).convert("RGB").resize(shape).save(shown[-1])
    seen = [both.speaker.see(photo) for photo in shown]
    assert [each.grid.tolist()[1:] for each in seen] == list(CUT[family].values())
    heard, told = ours(both.speaker, shown), both.told(talker, shown)
    assert heard.tokens == told.tokens
    assert apart(heard, told) <= apart(told, both.told(talker, shown[::-1])) / 20
    whole = shown[1:2]
    assert ours(both.speaker, whole).tokens == both.told(talker, whole).tokens
