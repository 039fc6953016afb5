"""A router that weighs shared experts beside the others, as one that always chooses them."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")

from moe_export.load.pretrained.sinks import route_shared

from .catalogue import Case

ROWS = 40


def blocks_of(folder):
    model = Case("inkling_mm_model", "vision").save(folder)
    found = [m for m in model.modules() if type(m).__name__ == "InklingMoE"]
    assert found
    return found


def rows(seed=3):
    return torch.randn(2, ROWS // 2, 64, generator=torch.Generator().manual_seed(seed))


def test_a_block_computes_what_it_did_before(tmp_path):
    for block in blocks_of(tmp_path):
        block.gate.global_scale.data.fill_(1.7)
        ours = copy.deepcopy(block)
        route_shared(ours)
        with torch.no_grad():
            expected, made = block(rows()), ours(rows())
        # Other orders of the same float32 sums, over ten experts.
        assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("bias", [-40.0, 0.0, 40.0])
def test_the_shared_experts_are_always_chosen_and_are_the_last(bias, tmp_path):
    block = blocks_of(tmp_path)[0]
    block.gate.e_score_correction_bias += bias
    route_shared(block)
    with torch.no_grad():
        weights, ids = block.gate(rows().flatten(0, 1))
    assert ids.shape == (ROWS, 4)
    assert ((ids >= 8).sum(-1) == 2).all()
    total = torch.full((ROWS,), block.gate.route_scale)
    assert torch.allclose(weights.sum(-1), total)
    assert block.experts.gate_up_proj.shape[0] == 10


def test_a_second_time_leaves_all_as_it_is(tmp_path):
    block = blocks_of(tmp_path)[0]
    route_shared(block)
    before = {name: x.clone() for name, x in block.state_dict().items()}
    route_shared(block)
    assert block.state_dict().keys() == before.keys()
    assert all(torch.equal(x, before[name]) for name, x in block.state_dict().items())
