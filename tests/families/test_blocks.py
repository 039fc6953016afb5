"""What is a router with its experts becomes one module, and the layer computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from moe_export.load.pretrained.cache import carried, filled, tensors_of
from moe_export.load.pretrained.joined import RoutedExperts, join_apart
from moe_export.load.pretrained.modal import split_by_kind
from pretrained_models import EXPERTS, TEXT, lively

from .configurations import TEXT_MODELS, VISION_MODELS


def small(family, config):
    made = transformers.AutoConfig.for_model(family, **config)
    return lively(transformers.AutoModel.from_config(made))


def hidden(batch=2, length=9):
    return torch.randn(batch, length, 64, generator=torch.Generator().manual_seed(3))


def test_a_layer_that_calls_router_and_experts_apart_gets_one_block():
    model = small("gemma4_text", {**TEXT, **EXPERTS, **TEXT_MODELS["gemma4_text"]})
    joined = copy.deepcopy(model)
    join_apart(joined, 64)
    names = set(dict(joined.named_parameters()))
    assert "layers.0.moe.router.proj.weight" in names
    assert not any(name.startswith("layers.0.experts") for name in names)
    assert isinstance(joined.layers[1].moe, RoutedExperts)
    with torch.no_grad():
        expected, made = (m(inputs_embeds=hidden()).last_hidden_state for m in (model, joined))
    assert torch.equal(made, expected)


def test_a_copy_of_a_joined_layer_calls_its_own_block():
    model = small("gemma4_text", {**TEXT, **EXPERTS, **TEXT_MODELS["gemma4_text"]})
    join_apart(model, 64)
    twin = copy.deepcopy(model)
    twin.layers[0].moe = torch.nn.Identity()
    with torch.no_grad(), pytest.raises(RuntimeError):
        twin(inputs_embeds=hidden())
    with torch.no_grad():
        model(inputs_embeds=hidden())


@pytest.mark.parametrize("images", ["none", "some", "all"])
def test_text_and_images_go_to_their_own_experts(images):
    model = small("ernie4_5_vl_moe", VISION_MODELS["ernie4_5_vl_moe"]).language_model
    split = copy.deepcopy(model)
    split_by_kind(split)
    split_by_kind(split)  # a second time leaves all as it is
    kinds = torch.zeros(2, 9, dtype=torch.int64)
    if images != "none":
        kinds[:, 2:6] = 1
    if images == "all":
        kinds[:] = 1
    with torch.no_grad():
        expected, made = (
            m(inputs_embeds=hidden(), moe_mm_token_type_ids=kinds).last_hidden_state
            for m in (model, split)
        )
    # Other sizes of product, and so other orders of the same sums.
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_each_kind_of_layer_carries_its_own():
    kinds = ["linear_attention", "full_attention", "moe", "conv"]
    assert carried(kinds) == [(0, "conv"), (0, "state"), (1, "key"), (1, "value"), (3, "conv")]


def test_a_state_is_replaced_and_what_was_given_stays():
    kinds = ["linear_attention", "full_attention"]
    keys, values = (torch.zeros(1, 2, 0, 8) for _ in range(2))
    given = [torch.zeros(1, 3, 4), torch.zeros(1, 2, 5), keys, values]
    cache = filled(torch.nn.Identity(), kinds, given)
    assert cache.update_conv_state(torch.ones(1, 3, 2), 0, conv_kernel_size=4).shape[-1] == 6
    cache.get_conv_state(0).add_(1)
    cache.update_recurrent_state(torch.ones(1, 2, 5), 0)
    cache.update(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8), 1)
    assert [list(x.shape) for x in tensors_of(kinds, cache)] == [
        [1, 3, 4],
        [1, 2, 5],
        [1, 2, 3, 8],
        [1, 2, 3, 8],
    ]
    assert not any(bool(x.any()) for x in given)
