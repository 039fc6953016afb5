"""Every block of the zoo is recognised, or refused, for the reason its label gives."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from moe_export.moe.recipe import Stacked
from moe_export.rewrite.proposal import Proposal, Refusal
from moe_export.rewrite.prove import prove
from moe_export.rewrite.recognise import Recognition, recognise
from zoo import LOOK_ALIKES, RECOGNISED, ZooCase, canonical_experts, canonical_router
from zoo.look_alikes import ROUTERS_OF_THEIR_OWN


def by_name(case: ZooCase) -> str:
    return case.name


def example(case: ZooCase) -> Tensor:
    return torch.randn(case.input_shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("case", RECOGNISED, ids=by_name)
def test_a_block_is_recognised_unaided_and_proven(case: ZooCase) -> None:
    found = recognise(case.build(), example(case))
    assert isinstance(found, Recognition), found
    layer = found.proposal.layer
    assert case.router is not None
    assert case.experts is not None
    assert canonical_router(layer.router) == canonical_router(case.router)
    assert canonical_experts(layer.experts, layer.router) == canonical_experts(
        case.experts, case.router
    )
    assert layer.has_shared_path == case.has_shared_path
    assert found.proof.max_error <= found.proof.tolerance
    assert found.proof.experts_reached == case.router.num_experts
    assert {"every expert", "skewed", "one token"} <= set(found.proof.cases)


@pytest.mark.parametrize("case", LOOK_ALIKES, ids=by_name)
def test_a_look_alike_is_refused_for_its_reason_or_keeps_its_router_for_it(case: ZooCase) -> None:
    found = recognise(case.build(), example(case))
    if case.name in ROUTERS_OF_THEIR_OWN:
        assert isinstance(found, Recognition)
        assert found.proposal.layer.router.kept
        reason = str(found.proposal.why_kept)
    else:
        assert isinstance(found, Refusal)
        reason = found.reason
    assert re.search(str(case.refused_because), reason), reason


@pytest.mark.parametrize("case", RECOGNISED[:8], ids=by_name)
def test_recognising_leaves_the_block_alone(case: ZooCase) -> None:
    block = case.build()
    before = copy.deepcopy(block.state_dict())
    recognise(block, example(case))
    for name, tensor in block.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def proposed(name: str) -> tuple[Proposal, nn.Module, Tensor]:
    case = next(case for case in RECOGNISED if case.name == name)
    block = case.build().double()
    found = recognise(block, example(case))
    assert isinstance(found, Recognition)
    return found.proposal, block, example(case).double()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mixtral_like", {"top_k": 1}),
        ("mixtral_like", {"normalize": False}),
        ("topk_unnormalized", {"normalize": True}),
        ("topk_unnormalized", {"score": "sigmoid"}),
        ("group_limited_greedy", {"num_groups": 1, "topk_groups": 1}),
        ("group_limited_greedy", {"routed_scaling": 1.0}),
        ("deepseek_v3_like", {"group_score": "max"}),
        ("epsilon_denominator", {"normalize_eps": 0.0}),
    ],
)
def test_a_proposal_that_is_wrong_in_one_attribute_fails_its_proof(
    name: str, change: dict[str, object]
) -> None:
    proposal, block, x = proposed(name)
    layer = replace(proposal.layer, router=replace(proposal.layer.router, **change))  # type: ignore[arg-type]
    verdict = prove(replace(proposal, layer=layer), block, x)
    assert isinstance(verdict, Refusal)
    assert "failed its proof" in verdict.reason


def test_a_proposal_with_two_experts_exchanged_fails_its_proof() -> None:
    proposal, block, x = proposed("mixtral_like")
    down = proposal.weights["down"]
    assert isinstance(down, Stacked)
    swapped = Stacked((down.parts[1], down.parts[0], *down.parts[2:]))
    verdict = prove(replace(proposal, weights={**proposal.weights, "down": swapped}), block, x)
    assert isinstance(verdict, Refusal)


def test_a_proposal_without_the_shared_expert_fails_its_proof() -> None:
    proposal, block, x = proposed("shared_expert_gated")
    verdict = prove(replace(proposal, shared=()), block, x)
    assert isinstance(verdict, Refusal)
