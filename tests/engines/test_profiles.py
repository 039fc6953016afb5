"""Optimisation profiles: every size that the limits allow, and no other."""

from __future__ import annotations

import pytest

from moe_export.engines.profiles import profiles_of, sizes_in
from moe_export.errors import UnsupportedError
from moe_export.forms import EngineLimits
from moe_export.manifest import ComponentRecord, TensorInfo

LIMITS = EngineLimits(max_batch=3, max_tokens=100, max_image_tokens=64)


def record(**inputs: tuple[int | str | None, ...]) -> ComponentRecord:
    return ComponentRecord(
        graph="g",
        probe_graph="p",
        expert_graph="e",
        replay_graph="r",
        engine_graph="t",
        plugins=(),
        data="d",
        also_reads=(),
        inputs=tuple(TensorInfo(name=n, dtype="float32", shape=s) for n, s in inputs.items()),
        outputs=(),
        probes={},
        layers=(),
        modules={},
        dense=(),
        in_place={},
    )


def test_a_decoder_has_a_profile_for_a_prompt_and_one_for_a_token():
    decoder = record(
        inputs_embeds=("batch", "sequence", 64),
        attention_mask=("batch", "past+sequence"),
        past_key_0=("past", "batch", 2, 16),
    )
    prompt, token = profiles_of(decoder, [], LIMITS)
    assert prompt["inputs_embeds"] == ((1, 1, 64), (1, 100, 64), (3, 100, 64))
    assert prompt["past_key_0"] == ((0, 1, 2, 16), (0, 1, 2, 16), (100, 3, 2, 16))
    assert prompt["attention_mask"] == ((1, 1), (1, 100), (3, 200))
    assert token["inputs_embeds"] == ((1, 1, 64), (1, 1, 64), (3, 1, 64))
    assert token["attention_mask"] == ((1, 1), (1, 51), (3, 101))


def test_images_are_bounded_by_their_features():
    vision = record(pixel_values=("4*features", 96), image_grid_thw=("images", 3))
    (profile,) = profiles_of(vision, [], LIMITS)
    assert profile["pixel_values"] == ((4, 96), (256, 96), (256, 96))
    assert profile["image_grid_thw"] == ((1, 3), (1, 3), (4, 3))


def test_an_engine_runs_with_nothing_where_the_model_was_seen_to():
    embed = record(image_embeds=("features", 64), input_ids=("batch", "sequence"))
    (profile,) = profiles_of(embed, [{"features": 0, "sequence": 4}, {"features": 9}], LIMITS)
    assert profile["image_embeds"][0] == (0, 64)
    assert profile["input_ids"][0] == (1, 1)


def test_inputs_of_one_size_are_in_no_profile():
    fixed = record(scale=(4, 4), tokens=("batch",))
    (profile,) = profiles_of(fixed, [], LIMITS)
    assert profile == {"tokens": ((1,), (1,), (3,))}


@pytest.mark.parametrize(
    ("dim", "words"),
    [(None, "without a name"), ("a**9", "cannot be reckoned"), ("f(a)", "cannot be reckoned")],
)
def test_a_dimension_that_cannot_be_bounded_is_refused(dim, words):
    with pytest.raises(UnsupportedError, match=words):
        profiles_of(record(x=(dim, 3)), [], LIMITS)


def test_sizes_are_read_off_the_inputs_that_name_them():
    given = record(x=("batch", "past+sequence"), y=("sequence", 4)).inputs
    assert sizes_in(given, {"x": (2, 9), "y": (5, 4)}) == {"batch": 2, "sequence": 5}
