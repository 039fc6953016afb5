"""Layers that convolve keys and values, and carry the last of what they convolved beside them."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from moe_export.errors import UnsupportedError
from moe_export.load.pretrained.cache import carried
from moe_export.load.pretrained.directory import _require_known_layers
from moe_export.load.pretrained.parts import Decoder

from .catalogue import Case
from .runs import embeds, require_padding_changes_nothing, require_two_runs_are_one

SCALED = "text_config.log_scaling_n_floor"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """One whose scores do not depend on the place in the batch."""
    model = Case("inkling_mm_model", "vision").save(
        tmp_path_factory.mktemp("model"), {SCALED: None}
    )
    return Decoder(model, all_logits=True).eval()


def test_each_layer_carries_keys_values_and_what_four_convolutions_saw(decoder):
    what = ("key", "value", "conv0", "conv1", "conv2", "conv3")
    assert carried(decoder.kinds) == [(layer, each) for layer in range(3) for each in what]
    past = decoder.empty_cache(embeds())
    assert past["past_conv0_1"].shape == (1, 32, 4)  # of two heads of keys, 4 tokens wide
    assert past["past_conv2_1"].shape == (1, 64, 4)


def test_a_text_in_two_runs_is_the_text_in_one(decoder):
    require_two_runs_are_one(decoder)


def test_padding_on_the_left_changes_nothing(decoder):
    require_padding_changes_nothing(decoder)


def test_layers_of_that_name_without_such_convolutions_are_refused(tmp_path):
    from transformers import FalconH1Config

    with pytest.raises(UnsupportedError, match="'hybrid'"):
        _require_known_layers(FalconH1Config(num_hidden_layers=2), tmp_path)
