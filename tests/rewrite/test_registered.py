"""Blocks that structure cannot see enter by their author's description, and must be proven too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import moe_export
from moe_export.moe.layer import ExpertsSpec, RouterSpec
from moe_export.rewrite import register
from moe_export.rewrite.proposal import Refusal
from moe_export.rewrite.recognise import Recognition, recognise
from zoo import REGISTERED
from zoo.registered import HashLayerMoE, ProductKeyMoE

CASES = {case.name: case for case in REGISTERED}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = dict(register._REGISTERED)
    yield
    register._REGISTERED.clear()
    register._REGISTERED.update(before)


def product_key_logits(block: Any, rows: Tensor) -> Tensor:
    left, right = block.query(rows).chunk(2, dim=-1)
    first, second = left @ block.keys[0].t(), right @ block.keys[1].t()
    return (first.unsqueeze(-1) + second.unsqueeze(-2)).flatten(-2)


def describe_product_keys(block: Any, *, top_k: int | None = None) -> moe_export.BlockDescription:
    hidden = block.query.in_features
    experts = block.n_keys**2
    return moe_export.BlockDescription(
        router=RouterSpec(num_experts=experts, top_k=top_k or block.k, score="softmax_topk"),
        experts=ExpertsSpec(
            num_experts=experts,
            hidden_size=hidden,
            intermediate_size=block.inward.embedding_dim // hidden,
            output_size=hidden,
            activation="relu",
            gated=False,
        ),
        logits=product_key_logits,
        weights={"up": "inward.weight", "down": "outward.weight"},
    )


def found_for(name: str) -> Recognition | Refusal:
    case = CASES[name]
    return recognise(case.build(), torch.randn(case.input_shape))


def test_product_keys_are_not_recognised_unaided() -> None:
    assert isinstance(found_for("product_keys"), Refusal)


def test_a_described_block_is_proven() -> None:
    moe_export.register_block(ProductKeyMoE)(describe_product_keys)
    found = found_for("product_keys")
    assert isinstance(found, Recognition), found
    assert found.found_by == "registered"
    assert found.proof.max_error <= found.proof.tolerance


def test_a_wrong_description_is_refused_with_numbers() -> None:
    moe_export.register_block(ProductKeyMoE)(lambda block: describe_product_keys(block, top_k=1))
    found = found_for("product_keys")
    assert isinstance(found, Refusal)
    assert "differ by" in found.reason


def test_a_block_with_mangled_names_and_a_static_router_is_proven() -> None:
    @moe_export.register_block(HashLayerMoE)
    def describe(block: Any) -> moe_export.BlockDescription:
        inner, dim = getattr(block, block._mangled[0][0]).shape
        experts = len(block._mangled)

        def one_hot(block: Any, rows: Tensor) -> Tensor:
            ids = block.table[rows.argmax(dim=-1)]
            return nn.functional.one_hot(ids, experts).to(rows.dtype)

        return moe_export.BlockDescription(
            router=RouterSpec(num_experts=experts, top_k=1, score="softmax_topk"),
            experts=ExpertsSpec(
                num_experts=experts,
                hidden_size=dim,
                intermediate_size=inner,
                output_size=dim,
                activation="silu",
                gated=False,
            ),
            logits=one_hot,
            weights={
                "up": moe_export.Stack([up for up, _ in block._mangled]),
                "down": moe_export.Stack([down for _, down in block._mangled]),
            },
        )

    found = found_for("hash_layer")
    assert isinstance(found, Recognition), found


def test_a_name_the_block_lacks_is_a_usage_error() -> None:
    @moe_export.register_block(ProductKeyMoE)
    def describe(block: Any) -> moe_export.BlockDescription:
        described = describe_product_keys(block)
        return moe_export.BlockDescription(
            router=described.router,
            experts=described.experts,
            logits=described.logits,
            weights={"up": "inwards.weight", "down": "outward.weight"},
        )

    with pytest.raises(moe_export.UsageError, match="no such parameter"):
        found_for("product_keys")


def test_registering_an_object_that_is_no_module_class_is_a_usage_error() -> None:
    with pytest.raises(moe_export.UsageError, match="class of a block"):
        moe_export.register_block(ProductKeyMoE(8, 4, 2, 1))  # type: ignore[arg-type]
