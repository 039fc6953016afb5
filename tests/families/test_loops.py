"""Layers that run several times over a text, each time with a cache of its own."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from moe_export.load.pretrained.cache import carried
from moe_export.load.pretrained.parts import Decoder, repeated_layers
from moe_export.load.pretrained.windows import WindowsCopied

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


@pytest.mark.parametrize("step", [1, 2])
def test_windows_are_those_of_a_view(step):
    x = torch.arange(24).view(2, 3, 4)
    for dim in (0, 1, 2, -1):
        for size in (1, 2):
            expected = x.unfold(dim, size, step)
            with WindowsCopied():
                assert torch.equal(x.unfold(dim, size, step), expected)
