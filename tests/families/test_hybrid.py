"""Layers that convolve keys and values, and carry the last of what they convolved beside them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from moe_export.errors import UnsupportedError
from moe_export.load.pretrained.cache import carried
from moe_export.load.pretrained.directory import _require_known_layers
from moe_export.load.pretrained.parts import Decoder

from .catalogue import Case

SCALED = "text_config.log_scaling_n_floor"
LENGTH = 21


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """One whose scores do not depend on the place in the batch."""
    model = Case("inkling_mm_model", "vision").save(
        tmp_path_factory.mktemp("model"), {SCALED: None}
    )
    return Decoder(model, all_logits=True).eval()


def embeds():
    return torch.randn(1, LENGTH, 64, generator=torch.Generator().manual_seed(2))


def run(decoder, rows, mask, past):
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -rows.shape[1] :]
    own = {"inputs_embeds": rows, "position_ids": positions, "attention_mask": mask}
    made = decoder.run({**own, **past})
    names = zip(decoder.cache_names("past"), decoder.cache_names("present"), strict=True)
    return made["logits"], {name: made[present] for name, present in names}


def test_each_layer_carries_keys_values_and_what_four_convolutions_saw(decoder):
    what = ("key", "value", "conv0", "conv1", "conv2", "conv3")
    assert carried(decoder.kinds) == [(layer, each) for layer in range(3) for each in what]
    past = decoder.empty_cache(embeds())
    assert past["past_conv0_1"].shape == (1, 32, 4)  # of two heads of keys, 4 tokens wide
    assert past["past_conv2_1"].shape == (1, 64, 4)


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


def test_layers_of_that_name_without_such_convolutions_are_refused(tmp_path):
    from transformers import FalconH1Config

    with pytest.raises(UnsupportedError, match="'hybrid'"):
        _require_known_layers(FalconH1Config(num_hidden_layers=2), tmp_path)
