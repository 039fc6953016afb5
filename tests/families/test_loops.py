"""Layers that run several times over a text, each time with a cache of its own."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from moe_export.load.pretrained.cache import carried
from moe_export.load.pretrained.parts import Decoder, repeated_layers
from moe_export.load.pretrained.windows import WindowsCopied

from .catalogue import Case

LENGTH = 21
# Six layers, of which two run twice.
CACHES = 8


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    model = Case("inkling2_loop_text", "text").save(tmp_path_factory.mktemp("model"))
    return Decoder(model, all_logits=True).eval()


def embeds():
    return torch.randn(1, LENGTH, 64, generator=torch.Generator().manual_seed(2))


def run(decoder, rows, mask, past):
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -rows.shape[1] :]
    own = {"inputs_embeds": rows, "position_ids": positions, "attention_mask": mask}
    made = decoder.run({**own, **past})
    names = zip(decoder.cache_names("past"), decoder.cache_names("present"), strict=True)
    return made["logits"], {name: made[present] for name, present in names}


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
    rows, mask = embeds(), torch.ones(1, LENGTH, dtype=torch.int64)
    expected, _ = run(decoder, rows, mask, decoder.empty_cache(rows))
    for cut in (1, 2, 9, LENGTH - 1):
        first, past = run(decoder, rows[:, :cut], mask[:, :cut], decoder.empty_cache(rows))
        second, _ = run(decoder, rows[:, cut:], mask, past)
        made = torch.cat([first, second], dim=1)
        assert (made - expected).abs().max() <= 1e-4 * expected.abs().max(), cut


def test_padding_on_the_left_changes_nothing(decoder):
    rows = embeds().expand(2, -1, -1)
    whole = torch.ones(2, LENGTH, dtype=torch.int64)
    expected, _ = run(decoder, rows, whole, decoder.empty_cache(rows))
    for padding in (1, 3, 6):
        longer = torch.cat([torch.ones(2, padding, 64), rows], dim=1)
        mask = torch.cat([torch.zeros(2, padding), torch.ones(2, LENGTH)], dim=1).long()
        made, _ = run(decoder, longer, mask, decoder.empty_cache(longer))
        off = (made[:, padding:] - expected).abs().max()
        assert off <= 1e-4 * expected.abs().max(), padding


@pytest.mark.parametrize("step", [1, 2])
def test_windows_are_those_of_a_view(step):
    x = torch.arange(24).view(2, 3, 4)
    for dim in (0, 1, 2, -1):
        for size in (1, 2):
            expected = x.unfold(dim, size, step)
            with WindowsCopied():
                assert torch.equal(x.unfold(dim, size, step), expected)
