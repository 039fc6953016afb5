"""Settings of processors that no recipe has: the bundle is made, and says why it sees no images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from moe_export.dialogue import Dialogue
from moe_export.load.pretrained import dialogue_assets
from moe_export.load.pretrained.directory import read_directory
from moe_export.load.pretrained.processors import NoProcessorError, Processor
from moe_export.load.pretrained.sameness import WORDS, Question, require_sameness
from moe_export.runtime import patches
from moe_export.runtime.resampling import resampled
from moe_export.strict_json import decode, parse

from .talkers import TALKERS

SQUARES = "squares of another size"
LANCZOS, NEAREST = 1, 0


def talker_of(family):
    pytest.importorskip("torchvision", reason="its processor is torchvision's alone")
    (talker,) = (each for each in TALKERS if each.family == family)
    return talker


def dialogue_of(folder) -> Dialogue:
    content = dialogue_assets(read_directory(folder), folder)["dialogue.json"]
    return decode(Dialogue, parse(content, "."), ".", defaults=True)


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("inkling2", {"size": {"height": 40, "width": 40}}, SQUARES),
        ("inkling2", {"size": {"height": 80, "width": 40}}, SQUARES),
        ("nemotron_h_omni", {"resample": LANCZOS}, "count resizes bilinear or bicubic"),
        ("nemotron_h_omni", {"resample": NEAREST}, "settings of other kinds"),
        ("nemotron_h_omni", {"min_num_patches": 2**24}, "min_pixels is above max_pixels"),
    ],
)
def test_settings_that_no_recipe_has_are_refused_with_the_reason(
    family, settings, reason, tmp_path
):
    talker = talker_of(family)
    replace(talker, settings={**talker.settings, **settings}).save(tmp_path)
    made = dialogue_of(tmp_path)
    assert made.images is None
    assert reason in (made.no_images or "")


@dataclass(frozen=True)
class Judged:
    """A recipe, and what it is held against."""

    recipe: Any
    asked: tuple[Any, ...]

    def require(self, **changes: Any) -> None:
        require_sameness(replace(self.recipe, **changes), *self.asked)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """By family, made once."""
    import transformers

    made: dict[str, Judged] = {}

    def judge(family: str) -> Judged:
        if family in made:
            return made[family]
        folder = tmp_path_factory.mktemp(family)
        talker_of(family).save(folder)
        said, tokenizer = dialogue_of(folder), transformers.AutoTokenizer.from_pretrained(folder)
        parts = [{"type": "image"}, {"type": "text", "text": WORDS}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        processor = Processor(family, folder, tokenizer)
        asked = (Question(text, said.prompt), processor, tokenizer.backend_tokenizer)
        made[family] = Judged(said.patches, asked)
        return made[family]

    return judge


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("inkling2", {"fit": "area", "min_pixels": 6400}, "of another shape"),
        ("inkling2", {"mean": (0.499, 0.5, 0.5)}, "other pixel_values"),
        ("nemotron_h_omni", {"max_pixels": 100 * 16}, "other tokens"),
        ("nemotron_h_omni", {"min_pixels": 20 * 16}, "other tokens"),
        ("nemotron_h_omni", {"resample": "bilinear"}, "other pixel_values"),
        ("nemotron_h_omni", {"fit": "area"}, "other "),
    ],
)
def test_another_recipe_than_the_processors_is_found_out(family, changes, words, judged):
    judged(family).require()
    with pytest.raises(NoProcessorError, match=words):
        judged(family).require(**changes)


def test_floats_that_are_rounded_to_bytes_are_found_out(judged, monkeypatch):
    family = judged("nemotron_h_omni")
    monkeypatch.setattr(patches, "resampled", lambda *given: np.rint(resampled(*given)))
    with pytest.raises(NoProcessorError, match="other pixel_values"):
        family.require()


def test_a_processor_that_cannot_tell_how_many_patches_it_makes_is_asked_to_make_them(judged):
    _, processor, _ = judged("nemotron_h_omni").asked
    assert processor.number_of_patches(40, 48) == 10 * 12
    assert processor.number_of_patches(2000, 2000) == 12 * 12
