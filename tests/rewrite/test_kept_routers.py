"""A router that no op says stays as it is, in front of experts that are proven."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.capture.margins import found_margins
from moe_export.moe.layer import RouterSpec
from moe_export.moe.reference import rivals, routing_margin
from moe_export.rewrite.fused import fused
from moe_export.rewrite.proposal import Proposal, Refusal
from moe_export.rewrite.prove import prove
from moe_export.rewrite.recognise import Recognition, recognise

from .odd_routers import (
    EXPERTS,
    HIDDEN,
    INNER,
    ODD,
    AcrossTokens,
    Branching,
    ByGroups,
    Frozen,
    NearTheBest,
    OddRouter,
    RarelyMasked,
    Tempered,
    Unweighted,
    lively,
    rows,
)


def kept(block: nn.Module, shape: tuple[int, ...] = (2, 9)) -> Proposal:
    found = recognise(block, rows(*shape))
    assert isinstance(found, Recognition), found
    assert found.proof.max_error <= found.proof.tolerance
    assert found.proof.experts_reached == EXPERTS
    return found.proposal


def of_all(weights: Tensor, ids: Tensor) -> Tensor:
    """``[T, E]``: how much every expert counts.  One that was ruled out counts 0, chosen or not."""
    return torch.zeros(len(ids), EXPERTS).scatter(1, ids.long(), weights)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("shape", [(2, 9), (1, 2, 9), (18,)], ids=str)
def test_an_odd_router_is_kept_in_front_of_experts_of_the_op(kind, shape):
    proposal = kept(lively(kind), shape)
    router, experts = proposal.layer.router, proposal.layer.experts
    assert router.kept
    assert router.kept in router.describe()
    assert (experts.num_experts, experts.hidden_size) == (EXPERTS, HIDDEN)
    assert (experts.intermediate_size, experts.activation) == (INNER, "silu")
    assert "no known router and experts reproduce it" in str(proposal.why_kept)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("tokens", [0, 1, 5, 40])
def test_it_decides_about_any_number_of_tokens_as_the_block_does(kind, tokens):
    block = lively(kind)
    layer = fused(kept(block), block)
    x = rows(tokens)
    weights, ids = layer.route(x, layer.logits(x))
    assert (weights.dtype, ids.dtype) == (torch.float32, torch.int32)
    torch.testing.assert_close(of_all(weights, ids), of_all(*block.choose(x)), rtol=1e-5, atol=1e-6)


def test_a_router_s_own_tensors_are_read_and_are_no_expert_s():
    proposal = kept(lively(Tempered))
    assert set(proposal.kept.reads()) == {"heat.weight", "heat.bias"}
    assert "noise" in proposal.logits.reads()
    assert set(proposal.weights) == {"up", "down"}


def test_a_mask_that_hid_nothing_stays():
    proposal = kept(lively(RarelyMasked))
    block = lively(RarelyMasked).double()
    with torch.no_grad():
        block.gate.weight.mul_(100.0)
    layer, x = fused(proposal, block), rows(30).double()
    assert bool((F.linear(x, block.gate.weight) > 60.0).any())
    # Which of those that are masked comes first is PyTorch's accident, how much it counts is not.
    torch.testing.assert_close(layer.route(x, layer.logits(x))[0], block.choose(x)[0])


def test_groups_stay_an_axis():
    assert "reshape" in str(kept(lively(ByGroups)).kept.graph)


class Rounded(OddRouter):
    """Logits in steps, so that many tie."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, ids = (self.gate(x) / 8).ceil().topk(2, dim=-1)
        return (0.3 + logits).square(), ids


def test_where_experts_tie_and_count_a_choice_by_accident_is_refused():
    found = recognise(lively(Rounded), rows(2, 9))
    assert isinstance(found, Refusal)
    assert "with its own router, the proposal failed its proof" in found.reason


def test_of_equal_scores_the_first_comes_first():
    scores = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0]])
    best, worst = (torch.ops.moe_export.topk(scores, 4, -1, largest) for largest in (True, False))
    assert best[1].tolist() == [[1, 2, 4, 0]]
    assert worst[1].tolist() == [[3, 0, 1, 2]]
    assert best[0].tolist() == [[2.0, 2.0, 2.0, 1.0]]


def test_a_choice_without_weights_counts_once():
    block = lively(Unweighted)
    layer, x = fused(kept(block), block), rows(7)
    assert torch.equal(layer.route(x, layer.logits(x))[0], torch.ones(7, 1))


class Knowable(OddRouter):
    """Softmax and the two best: what the op says, however it is written."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.gate(x).softmax(-1).topk(2, dim=-1)


def test_a_router_that_the_op_says_is_not_kept():
    proposal = kept(lively(Knowable))
    assert (proposal.kept, proposal.why_kept, proposal.layer.router.kept) == (None, None, "")


@pytest.mark.parametrize("kind", [AcrossTokens, Branching, Frozen])
def test_a_router_that_reads_more_than_one_token_is_refused(kind):
    found = recognise(lively(kind), rows(2, 9))
    assert isinstance(found, Refusal)
    assert "depends on the other tokens" in found.reason


class Elsewhere(OddRouter):
    """A factor behind the sum that is made of all tokens."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, ids = self.gate(x).softmax(-1).topk(2, dim=-1)
        return weights.sqrt(), ids

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        return y * torch.sigmoid(y.abs().mean())


def test_a_block_that_does_more_than_its_router_and_experts_is_refused():
    assert isinstance(recognise(lively(Elsewhere), rows(2, 9)), Refusal)


@pytest.mark.parametrize(
    ("other", "words"),
    [(RarelyMasked, "failed its proof"), (Unweighted, "failed its proof")],
)
def test_a_wrongly_kept_router_fails_its_proof(other, words):
    block = lively(NearTheBest)
    right, wrong = kept(block), kept(lively(other))
    proposal = replace(right, kept=wrong.kept)
    verdict = prove(proposal, block.double(), rows(2, 9).double())
    assert isinstance(verdict, Refusal)
    assert words in verdict.reason


def test_a_kept_router_says_nothing_in_words_of_the_op():
    with pytest.raises(ValueError, match="has no attributes"):
        RouterSpec(num_experts=4, top_k=2, kept="topk", normalize=True)


def replayed(layer: nn.Module, x: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    layer.replayed = lambda: {"topk_ids": ids, "topk_weights": weights}
    made = layer.route(x, layer.logits(x))
    layer.replayed = None
    return made


def test_a_replay_takes_the_earlier_weights_only_where_the_choice_is_another():
    block = lively(NearTheBest)
    layer, x = fused(kept(block), block), rows(6)
    own, ids = layer.route(x, layer.logits(x))
    told = ids.flip(1).clone()
    told[3, 0] = next(e for e in range(EXPERTS) if e not in ids[3].tolist())
    earlier = torch.full_like(own, 7.0)
    weights, chosen = replayed(layer, x, told, earlier)
    assert torch.equal(chosen, told)
    same = [token for token in range(6) if token != 3]
    assert torch.equal(weights[same], own.flip(1)[same])
    assert torch.equal(weights[3], earlier[3])


class Sharpened(OddRouter):
    """Chooses as the op does, so that its margins are known, and weighs otherwise."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, ids = self.gate(x).topk(2, dim=-1)
        return logits.softmax(-1).square(), ids


def test_a_margin_that_is_found_is_the_gap_of_a_router_that_has_one():
    block = lively(Sharpened)
    layer, x = fused(kept(block), block), rows(50)
    logits = layer.logits(x).detach()
    margin, pairs = found_margins(layer, x, logits)
    known = RouterSpec(num_experts=EXPERTS, top_k=2, score="softmax_topk")
    gaps = routing_margin(logits.numpy(), known)
    assert (margin >= gaps * (1 - 1e-5)).all()
    np.testing.assert_allclose(margin, gaps, rtol=1e-3)
    np.testing.assert_array_equal(pairs, rivals(logits.numpy(), known))


@pytest.mark.parametrize("kind", ODD)
def test_a_move_by_a_margin_changes_the_choice(kind):
    block = lively(kind)
    layer, x = fused(kept(block), block), rows(20)
    logits = layer.logits(x)
    margin, pairs = found_margins(layer, x, logits)
    _, own = layer.route(x, logits)
    assert np.isfinite(margin).all()
    for token, (gone, come) in enumerate(pairs.tolist()):
        assert gone in own[token].tolist()
        assert come not in own[token].tolist()
        moved = [logits[token].clone() for _ in range(2 * EXPERTS)]
        for place, each in enumerate(moved):
            each[place % EXPERTS] += margin[token] * (1.0 if place < EXPERTS else -1.0)
        _, ids = layer.route(x[token].expand(len(moved), -1), torch.stack(moved))
        assert any(set(each) != set(own[token].tolist()) for each in ids.tolist())


class Everyone(OddRouter):
    """Chooses all experts: there is no other choice."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, ids = self.gate(x).softmax(-1).topk(EXPERTS, dim=-1)
        return weights.sqrt(), ids


def test_where_there_is_no_other_choice_the_margin_is_infinite():
    block = lively(Everyone)
    layer, x = fused(kept(block), block), rows(4)
    margin, pairs = found_margins(layer, x, layer.logits(x))
    assert np.isinf(margin).all()
    assert (pairs == -1).all()


class Normed(OddRouter):
    """A norm behind the sum of experts and a residual, which no scale of the sum undoes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(HIDDEN))

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.gate(x).softmax(-1).topk(2, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x) + x
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


def test_a_norm_behind_the_sum_is_walked_past():
    proposal = kept(lively(Normed))
    assert not proposal.layer.router.kept
    assert proposal.after is not None
    assert proposal.after.reads() == ("scale",)
    assert len(proposal.shared) == 1
