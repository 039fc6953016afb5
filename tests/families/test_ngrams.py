"""Layers that hash the last ids of a text, and an index of blocks of keys, are those of Qwen4."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from transformers.models.qwen4_exp import modeling_qwen4_exp as qwen

from moe_export.load.pretrained.blocked import keep_blocks
from moe_export.load.pretrained.cache import carried
from moe_export.load.pretrained.indexed import kept
from moe_export.load.pretrained.ngrams import NgramDecoder, _RunningMaxima

from .catalogue import Case
from .configurations import TEXT_MODELS

WIDE, HEADS, TURNED = 32, 8, 16


def test_running_maxima_are_those_of_cummax():
    numbers = torch.randint(-9, 9, (3, 20), generator=torch.Generator().manual_seed(1))
    expected = numbers.cummax(dim=1).values
    with _RunningMaxima():
        assert torch.equal(torch.cummax(numbers, dim=1).values, expected)


class Keys:
    """A cache that holds nothing yet."""

    def update_indexer(self, keys, _):
        return keys


def indexer(budget, ratio):
    from transformers import AutoConfig

    from pretrained_models import EXPERTS, TEXT

    sizes = {"indexer_budget": budget, "indexer_compress_ratio": ratio}
    own = {**TEXT, **EXPERTS, **TEXT_MODELS["qwen4_exp_text"], **sizes}
    config = AutoConfig.for_model("qwen4_exp_text", **own)
    torch.manual_seed(3)
    made = qwen.Qwen4ExpTextQSAIndexer(config, 2).double().eval().requires_grad_(False)
    for norm in (made.q_layernorm, made.k_layernorm):
        norm.weight.uniform_(-0.3, 0.3)
    return made


@pytest.mark.parametrize(("budget", "ratio"), [(4, 2), (6, 3), (8, 4), (40, 4), (3, 1)])
def test_an_index_of_blocks_keeps_what_the_source_keeps(budget, ratio):
    length, padding = 17, 3
    source = indexer(budget, ratio)
    draws = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, length, 64, dtype=torch.float64, generator=draws)
    angle = torch.rand(2, length, TURNED, dtype=torch.float64, generator=draws) * 6
    is_real = torch.arange(length) >= torch.tensor([[0], [padding]])
    sees = torch.ones(length, length, dtype=torch.bool).tril() & is_real[:, None, None]
    mask = sees | torch.eye(length, dtype=torch.bool)
    given = (hidden, (angle.cos(), angle.sin()), mask, Keys())
    expected = source(*given)
    keep_blocks(source, kept)
    keep_blocks(source, kept)  # a second time leaves all as it is
    made = source(*given)
    assert torch.equal(made & mask, expected & mask)
    assert bool((mask & ~made).any()) == (budget < length - ratio), "or it leaves nothing out"


def test_a_layer_with_ngrams_carries_their_inputs_and_the_last_ids(tmp_path):
    decoder = NgramDecoder(Case("qwen4_exp_text", "text").save(tmp_path)).eval()
    assert [what for i, what in carried(decoder.kinds) if i == 0] == ["conv", "state"]
    assert [what for i, what in carried(decoder.kinds) if i == 1] == [
        "conv",
        "state",
        "ngrams",
        "ids",
    ]
    assert [what for i, what in carried(decoder.kinds) if i == 2] == ["key", "value", "index"]
    cache = decoder.empty_cache(torch.zeros(3, 1, 64))
    assert list(cache["past_ids_1"].shape) == [3, 2]
    assert not cache["past_ids_1"].any()
