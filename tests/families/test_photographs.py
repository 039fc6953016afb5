"""A bundle of each family answers about a photograph what Transformers answers about it.

Transformers goes its own way: the family's processor with its tokenizer, then ``generate``.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

import moe_export
from moe_export.load.pretrained.mended import mend
from moe_export.runtime import Conversation
from pretrained_models import TEXT

from .talkers import TALKERS, Talker

LENGTH = 16
QUESTION = "what is it?"


def answer_of_transformers(talker: Talker, folder: Path, photos: list[Path]) -> list[int]:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForImageTextToText
    if talker.family == "qwen3_omni_moe":
        model = transformers.AutoModelForTextToWaveform.from_pretrained(folder).thinker.eval()
    else:
        model = kind.from_pretrained(folder, config=config).eval()
    mend(model)
    judge = talker.judge(folder)
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
    inputs = {
        name: value.float() if value.is_floating_point() else value
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
    made = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, pad_token_id=0)
    ids: list[int] = made[0, inputs["input_ids"].shape[1] :].tolist()
    return ids[:-1] if ids[-1] == TEXT["eos_token_id"] else ids


@pytest.mark.parametrize("talker", TALKERS, ids=lambda talker: talker.family)
def test_it_answers_about_photographs_what_transformers_answers(talker, photos, tmp_path):
    if talker.image_processor_class().__module__.find("_pil_") < 0:
        pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    talker.save(tmp_path / "model")
    moe_export.export(tmp_path / "model", output=tmp_path / "bundle")
    speaker = Conversation(tmp_path / "bundle", threads=1)
    assert speaker.dialogue.images is not None, speaker.dialogue.no_images
    for count in (1, 2):
        seen = [speaker.see(photo) for photo in photos[:count]]
        ids = speaker.encode(QUESTION, seen)
        ours = list(speaker.tokens(ids, seen, max_new_tokens=LENGTH))
        assert ours == answer_of_transformers(talker, tmp_path / "model", photos[:count])
        assert len(set(ours)) > 2, "an answer of one token over and over shows little"
