"""Layers that run several times over a text, each time with a cache of its own."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from moe_export.capture import Rounding
from moe_export.capture.continuation import continuations
from moe_export.capture.eager import eager_parts
from moe_export.capture.look import look_at
from moe_export.load import load
from moe_export.load.pretrained.cache import carried
from moe_export.load.pretrained.parts import Decoder, repeated_layers
from moe_export.load.pretrained.windows import WindowsCopied
from moe_export.moe.families import FAMILIES
from moe_export.rewrite import rewrite
from moe_export.spec import export_spec

from .catalogue import Case
from .runs import LENGTH, embeds, require_padding_changes_nothing, require_two_runs_are_one, run

# Six layers, of which two run twice.
CACHES = 8


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    model = Case("inkling2_loop_text", "text").save(tmp_path_factory.mktemp("model"))
    return Decoder(model, all_logits=True).eval()


def test_later_passes_have_caches_behind_those_of_all_layers(decoder):
    assert repeated_layers(decoder.text_config) == [2, 3]
    assert {layer for layer, _ in carried(decoder.kinds)} == set(range(CACHES))
    rows = embeds()
    _, past = run(
        decoder, rows, torch.ones(1, LENGTH, dtype=torch.int64), decoder.empty_cache(rows)
    )
    assert not torch.equal(past["past_key_2"], past["past_key_6"])


def test_a_model_without_a_loop_repeats_no_layer(decoder):
    from transformers import Qwen3MoeConfig

    assert repeated_layers(Qwen3MoeConfig()) == []


def test_a_text_in_two_runs_is_the_text_in_one(decoder):
    require_two_runs_are_one(decoder)


def test_padding_on_the_left_changes_nothing(decoder):
    require_padding_changes_nothing(decoder)


def test_a_continuation_knows_how_near_each_pass_came_to_another_choice(tmp_path):
    Case("inkling2_loop_text", "text").save(tmp_path)
    marked = rewrite(load(export_spec(tmp_path)))
    names = {part.loaded.component: look_at(part).names for part in marked.parts}
    parts = eager_parts(marked, dict.fromkeys(names, Rounding()), names)
    (said,) = continuations(parts, marked.loaded.asked, steps=2)
    blocks = [f"model.layers.{number}.mlp" for number in range(6)]
    assert set(said.margins) == {*blocks, f"{blocks[2]}@2", f"{blocks[3]}@2"}
    assert said.margins[blocks[2]].tolist() != said.margins[f"{blocks[2]}@2"].tolist()


def test_the_family_with_a_loop_sees_as_the_one_without():
    assert FAMILIES["inkling2_loop"] == FAMILIES["inkling2"]


@pytest.mark.parametrize("step", [1, 2])
def test_windows_are_those_of_a_view(step):
    x = torch.arange(24).view(2, 3, 4)
    for dim in (0, 1, 2, -1):
        for size in (1, 2):
            expected = x.unfold(dim, size, step)
            with WindowsCopied():
                assert torch.equal(x.unfold(dim, size, step), expected)
