"""What stands before, between, behind and beside the experts' matrices is kept exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.rewrite.fused import fused
from moe_export.rewrite.proposal import Leaf, Refusal
from moe_export.rewrite.recognise import Recognition, recognise

H, I, E, K = 12, 20, 6, 2  # noqa: E741
BOUND = 100.0


class Base(nn.Module):
    """Top-2 of six experts in a list; the subclasses differ in what they do around that."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: nn.Module = nn.Linear(H, E)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(H, I), nn.GELU(), nn.Linear(I, H)) for _ in range(E)
        )

    def mixed(self, x: Tensor, logits: Tensor) -> Tensor:
        rows = x.reshape(-1, H)
        weights, ids = logits.reshape(-1, E).softmax(-1).topk(K, dim=-1)
        y = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            token, choice = torch.where(ids == e)
            y[token] += weights[token, choice, None] * expert(rows[token])
        return y.view_as(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(x, self.gate(x))


class DeepRouter(Base):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.LayerNorm(H), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, E))


class CosineRouter(Base):
    def __init__(self) -> None:
        super().__init__()
        self.anchors = nn.Parameter(torch.randn(E, H))
        self.temperature = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        cosine = F.normalize(x, dim=-1) @ F.normalize(self.anchors, dim=-1).t()
        return self.mixed(x, cosine / self.temperature.clamp(min=0.01))


class ProjectedOutput(Base):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(H, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mixed(x, self.gate(x)))


class LayerScaleAndResidual(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(H)
        self.scale = nn.Parameter(torch.randn(H))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.scale * self.mixed(h, self.gate(h))


class BoundedShared(Base):
    """A bound that no row of a proof reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(x, self.gate(x)) + self.shared(x).clamp(max=BOUND)


class HalvedWithShared(Base):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shared(x) + self.mixed(x, self.gate(x))) * 0.5


class MaskedDense(Base):
    def forward(self, x: Tensor) -> Tensor:
        logits = self.gate(x)
        lowest = logits.topk(K, dim=-1).values[..., -1:]
        weights = logits.masked_fill(logits < lowest, float("-inf")).softmax(-1)
        y: Tensor = sum(weights[..., e, None] * f(x) for e, f in enumerate(self.experts))
        return y


class TokenByToken(Base):
    def forward(self, x: Tensor) -> Tensor:
        made = []
        for row, probabilities in zip(x.reshape(-1, H), self.routed(x), strict=True):
            weights, ids = probabilities.topk(K)
            pairs = zip(weights, ids, strict=True)
            made.append(sum(w * self.experts[int(i)](row) for w, i in pairs))
        return torch.stack(made).view_as(x)

    def routed(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.gate(x.reshape(-1, H)).softmax(-1)
        return probabilities


class StraightThrough(Base):
    def forward(self, x: Tensor) -> Tensor:
        soft = self.gate(x).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), E).to(x.dtype)
        weights = (hard - soft).detach() + soft
        each = torch.stack([expert(x) for expert in self.experts], -1)
        return (each * weights.unsqueeze(-2)).sum(-1)


class ManyOutputs(Base):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits = self.gate(x)
        probabilities = logits.softmax(-1)
        return {
            "hidden": self.mixed(x, logits),
            "ids": probabilities.topk(K, dim=-1).indices,
            "probabilities": probabilities,
            "load": probabilities.mean((0, 1)),
        }


STYLES = (
    DeepRouter,
    CosineRouter,
    ProjectedOutput,
    LayerScaleAndResidual,
    BoundedShared,
    HalvedWithShared,
    MaskedDense,
    TokenByToken,
    StraightThrough,
)


def made(style: type[Base]) -> Base:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return style().eval()


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_recognised_and_proven(style: type[Base]) -> None:
    found = recognise(made(style), torch.randn(2, 7, H))
    assert isinstance(found, Recognition), found
    assert found.proof.experts_reached == E


def test_a_bound_that_no_row_of_the_proof_reached_is_kept() -> None:
    block = made(BoundedShared).double()
    found = recognise(block, torch.randn(2, 7, H, dtype=torch.float64))
    assert isinstance(found, Recognition), found
    x = 1e4 * torch.randn(2, 7, H, dtype=torch.float64)
    with torch.no_grad():
        assert (block.shared(x) > BOUND).any()
        # Rounding of float64 sums over at most H + I terms, relative to the largest.
        torch.testing.assert_close(fused(found.proposal, block)(x), block(x), rtol=1e-9, atol=1e-9)


def test_every_returned_tensor_that_is_a_function_of_a_token_is_returned() -> None:
    block = made(ManyOutputs).double()
    x = torch.randn(2, 7, H, dtype=torch.float64)
    found = recognise(block, x)
    assert isinstance(found, Recognition), found
    with torch.no_grad():
        expected, returned = block(x), fused(found.proposal, block)(x)
    # Rounding of float64 sums over at most H + I terms of order one.
    close = {"rtol": 0.0, "atol": 64 * (H + I) * torch.finfo(torch.float64).eps}
    torch.testing.assert_close(returned["hidden"], expected["hidden"], **close)
    torch.testing.assert_close(returned["probabilities"], expected["probabilities"], **close)
    assert torch.equal(returned["ids"], expected["ids"])


def test_a_returned_statistic_over_tokens_comes_back_as_nan_and_never_as_a_guess() -> None:
    found = recognise(made(ManyOutputs), torch.randn(2, 7, H))
    assert isinstance(found, Recognition)
    assert found.proposal.output["load"] == Leaf("unused", dtype=torch.float64, shape=(E,))
    block = made(ManyOutputs).double()
    with torch.no_grad():
        returned = fused(found.proposal, block)(torch.randn(1, 3, H, dtype=torch.float64))
    assert returned["load"].isnan().all()


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class GatedMish(Base):
    """Stacked experts with gate and up as two products and a gate that the ops have no name for."""

    def __init__(self) -> None:
        super().__init__()
        del self.experts
        self.w_gate = nn.Parameter(torch.randn(E, H, I) / 4)
        self.w_up = nn.Parameter(torch.randn(E, H, I) / 4)
        self.w_down = nn.Parameter(torch.randn(E, I, H) / 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, H)
        weights, ids = self.gate(rows).softmax(-1).topk(K, dim=-1)
        dense = torch.zeros(len(rows), E, dtype=x.dtype).scatter(1, ids, weights)
        gate, up = (torch.einsum("th,ehi->eti", rows, w) for w in (self.w_gate, self.w_up))
        each = torch.einsum("eti,eih->eth", F.mish(gate) * up, self.w_down)
        return torch.einsum("te,eth->th", dense, each).view_as(x)


def with_activation(activation: nn.Module) -> Base:
    block = made(Base)
    for expert in block.experts:
        expert[1] = activation
    return block


@pytest.mark.parametrize(
    ("block", "middle"),
    [
        (with_activation(nn.Mish()), "mish"),
        (with_activation(nn.Tanh()), "tanh"),
        (with_activation(QuickGELU()), "mul+sigmoid"),
        (with_activation(nn.Sequential(nn.ReLU(), nn.Softmax(-1))), "relu+_softmax"),
        (made(GatedMish), "mish+mul"),
    ],
)
def test_experts_with_an_activation_of_their_own_are_proven(block: Base, middle: str) -> None:
    found = recognise(block, torch.randn(2, 7, H))
    assert isinstance(found, Recognition), found
    assert found.proposal.layer.experts.middle == middle
    assert found.proof.experts_reached == E


class NormedOutputs(Base):
    """One norm for what all experts make, before it is weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(H, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, H)
        weights, ids = self.gate(rows).sigmoid().topk(K, dim=-1)
        y = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            token, choice = torch.where(ids == e)
            # In float32, whatever the rows are in: such is the code of norms.
            normed = self.norm(expert(rows[token]).float()).to(rows.dtype)
            y.index_add_(0, token, normed * weights[token, choice, None])
        return y.view_as(x)


def test_a_norm_behind_the_last_matrix_is_kept() -> None:
    block = made(NormedOutputs)
    with torch.no_grad():
        block.norm.weight.uniform_(0.5, 1.5)
    found = recognise(block, torch.randn(2, 7, H))
    assert isinstance(found, Recognition), found
    assert found.proof.experts_reached == E
    experts = found.proposal.layer.experts
    assert experts.middle.startswith("gelu, then ")
    assert found.proposal.behind is not None
    assert found.proposal.behind.reads() == ("norm.weight",)
    x = torch.randn(3, 5, H)
    # Float32 sums of a few dozen terms, in another order.
    torch.testing.assert_close(fused(found.proposal, block)(x), block(x), rtol=1e-5, atol=1e-5)


def test_each_expert_with_a_norm_of_its_own_behind_is_refused() -> None:
    block = made(Base)
    for expert in block.experts:
        expert.append(nn.LayerNorm(H))
    found = recognise(block, torch.randn(2, 7, H))
    assert isinstance(found, Refusal)


def test_experts_with_parameters_between_their_matrices_are_refused() -> None:
    block = made(Base)
    for expert in block.experts:
        expert.insert(1, nn.LayerNorm(I))
    found = recognise(block, torch.randn(2, 7, H))
    assert isinstance(found, Refusal)
