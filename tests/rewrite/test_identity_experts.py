"""Experts that give back the row they are given, behind those with weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import moe_export
from moe_export.forms import LoadedModel, Source
from moe_export.plan.sizes import facts
from moe_export.rewrite.proposal import Refusal
from moe_export.rewrite.recognise import Recognition, recognise
from moe_export.runtime import Session

HIDDEN, INNER, IDLE = 16, 24, 3


class Listed(nn.Module):
    """Experts in a list, and a router over more than are in it."""

    factor = 1.0

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.count = experts
        self.route = nn.Linear(HIDDEN, experts + IDLE, bias=False)
        self.bias = nn.Buffer(torch.zeros(experts + IDLE))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(HIDDEN, INNER), nn.GELU(), nn.Linear(INNER, HIDDEN))
            for _ in range(experts)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, HIDDEN)
        scores = self.route(rows).softmax(-1)
        ids = (scores + self.bias).topk(3).indices
        weights = scores.gather(1, ids) * 1.5
        y = torch.zeros_like(rows)
        for number in range(self.count + IDLE):
            token, choice = torch.where(ids == number)
            given = rows[token]
            made = self.experts[number](given) if number < self.count else given * self.factor
            y.index_add_(0, token, made * weights[token, choice, None])
        return y.view_as(x)


class Negated(Listed):
    """One that is nearly what the recogniser knows."""

    factor = -1.0


class Stacked(nn.Module):
    """Stacked matrices, one of which has rows for the idle ones too, that nobody reads."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.count = experts
        self.route = nn.Parameter(torch.empty(experts + IDLE, HIDDEN))
        self.gate_up = nn.Parameter(torch.empty(experts + IDLE, 2 * INNER, HIDDEN))
        self.down = nn.Parameter(torch.empty(experts, HIDDEN, INNER))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, HIDDEN)
        weights, ids = F.linear(rows, self.route).softmax(-1).topk(3)
        y = torch.zeros_like(rows)
        for number in range(self.count + IDLE):
            token, choice = torch.where(ids == number)
            made = rows[token]
            if number < self.count:
                gate, up = F.linear(made, self.gate_up[number]).chunk(2, dim=-1)
                made = F.linear(F.silu(gate) * up, self.down[number])
            y.index_add_(0, token, made * weights[token, choice, None])
        return y.view_as(x)


def lively(block: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in (*block.parameters(), *block.buffers()):
            spread = 2 * tensor.shape[-1] ** -0.5 if tensor.dim() > 1 else 0.05
            tensor.normal_(0, spread, generator=generator)
    return block.eval()


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, HIDDEN, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("experts", [4, 5])
@pytest.mark.parametrize("kind", [Listed, Stacked])
def test_they_are_experts_of_the_router_and_have_no_weights(kind, experts):
    found = recognise(lively(kind(experts)), rows(2, 9))
    assert isinstance(found, Recognition), found
    layer = found.proposal.layer
    assert (layer.experts.num_experts, layer.router.num_experts) == (experts, experts + IDLE)
    assert layer.identity_experts == IDLE
    assert found.proof.experts_reached == experts + IDLE
    assert found.proposal.weights["up"].shape[0] == experts


def test_experts_that_give_back_something_else_are_none():
    found = recognise(lively(Negated(4)), rows(2, 9))
    assert isinstance(found, Refusal)
    assert "no known router and experts reproduce it" in found.reason


def test_they_are_planned_for_with_the_matrices_of_the_others():
    source = Source(description="stacked", fingerprint="0" * 64)
    loaded = LoadedModel(
        module=Stacked(4),
        example_inputs={"x": rows(2, 9)},
        dynamic_shapes=None,
        assets={},
        source=source,
    )
    (block,) = facts(loaded).blocks
    assert (block.experts, block.hidden_size) == (4, HIDDEN)
    assert block.matrices == ((4, 2 * INNER, HIDDEN), (4, HIDDEN, INNER))


@pytest.mark.parametrize("target", ["ort", "standard"])
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_bundle_gives_rows_back(target, precision, tmp_path):
    block = lively(Listed(4))
    with torch.no_grad():
        block.route.weight[4:] += block.route.weight[4:].sign()  # many tokens choose them
    bundle = moe_export.export(
        block,
        output=tmp_path / "bundle",
        example_inputs=(rows(2, 9),),
        target=target,
        precision=precision,
    )
    (record,) = bundle.manifest.blocks
    assert record.layer.identity_experts == IDLE
    with Session(bundle) as session, torch.no_grad():
        x = rows(3, 7)
        made = session.run({"x": x.numpy()})["output"]
        expected = block(x).numpy()
    scale = np.abs(expected).max()
    # int8 experts are off by some parts in a hundred; what is given back is exact.
    assert np.abs(made - expected).max() <= (1e-5 if precision == "f32" else 0.05) * scale
