"""Blocks whose parts hide from one run: biases of zeros, scales of ones, rows of two halves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moe_export.rewrite.recognise import Recognition, recognise
from zoo.biased_logits import BiasedLogitsMoe
from zoo.deepseek_v3_like import DeepseekMoE
from zoo.gemma4_like import GemmaMoe
from zoo.side_by_side import SideBySideMoe


def lively(block: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(4)
    for parameter in block.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 1.5 * parameter.shape[-1] ** -0.5, generator=generator)
    return block.eval()


def proven(block: nn.Module, width: int = 16) -> Recognition:
    x = torch.randn(2, 7, width, generator=torch.Generator().manual_seed(5))
    found = recognise(block, x if width == 16 else x.flatten(0, 1))
    assert isinstance(found, Recognition), found
    assert found.proof.max_error <= found.proof.tolerance
    return found


def test_a_correction_bias_of_zeros_is_a_correction_bias():
    block = lively(DeepseekMoE(16, 12, 8, 2, n_group=2, topk_group=1, scaling=2.5))
    assert not block.gate.e_score_correction_bias.any()
    found = proven(block)
    assert found.proposal.layer.router.has_correction_bias
    assert found.proposal.weights["correction_bias"].sources() == ("gate.e_score_correction_bias",)
    assert not block.gate.e_score_correction_bias.any()


def test_a_scale_of_ones_is_a_scale():
    block = lively(GemmaMoe(16, 12, 8, 2))
    assert bool((block.router.per_expert_scale == 1).all())
    assert proven(block).proposal.layer.router.has_expert_scale


@pytest.mark.parametrize("bias", [0.0, 0.4])
def test_a_bias_on_the_logits_for_the_choice_alone_leaves_the_weights(bias):
    block = lively(BiasedLogitsMoe(16, 12, 8, 2))
    block.gate.e_score_correction_bias.uniform_(-bias, bias)
    router = proven(block).proposal.layer.router
    assert (router.score, router.normalize) == ("sigmoid_topk", True)
    assert router.has_correction_bias


def test_a_router_that_reads_other_rows_than_the_experts_is_one_block_of_both():
    found = proven(lively(SideBySideMoe(16, 12, 8, 2)), width=32)
    assert found.proposal.layer.experts.hidden_size == 16
    assert found.proposal.hidden is not None


class OtherBias(DeepseekMoE):
    """Zeros that are added to the weights too: not what a router of the ops does."""

    def forward(self, hidden_states):
        x = hidden_states.view(-1, hidden_states.shape[-1])
        ids, weights = self.gate(x)
        weights = weights + self.gate.e_score_correction_bias[ids]
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            token, which = (ids == i).nonzero(as_tuple=True)
            y.index_add_(0, token, expert(x[token]) * weights[token, which][:, None])
        return y.view(hidden_states.shape)


def test_zeros_that_do_something_else_are_not_taken_for_a_correction_bias():
    block = lively(OtherBias(16, 12, 8, 2, n_group=2, topk_group=1, scaling=2.5))
    found = proven(block).proposal
    assert not found.layer.router.has_correction_bias
    assert found.layer.router.kept
    assert "gate.e_score_correction_bias" in found.kept.reads()
