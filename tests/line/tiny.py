"""The smallest model that is a MoE-VLM: patches and tokens through three unlike MoE blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import moe_export

VOCABULARY = 13
WIDTH = 12


class Mixtral(nn.Module):
    """Softmax top-2 over gated experts in a list, looped over."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 6, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 8), nn.SiLU(), nn.Linear(8, WIDTH)) for _ in range(6)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        weights, ids = self.gate(rows).softmax(-1).topk(2, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(rows)
        for expert, network in enumerate(self.experts):
            token, choice = torch.where(ids == expert)
            y.index_add_(0, token, network(rows[token]) * weights[token, choice, None])
        return y.reshape(x.shape)


class Own(nn.Module):
    """Top-1 over experts whose activation no op names, projected back behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 4)
        self.up = nn.Parameter(torch.randn(4, WIDTH, 9) / 3)
        self.down = nn.Parameter(torch.randn(4, 9, WIDTH) / 3)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        best = self.gate(x).softmax(-1).max(dim=-1)
        up, down = self.up[best.indices], self.down[best.indices]
        inner = torch.tanh(torch.einsum("...h,...hi->...i", x, up))
        mixed = torch.einsum("...i,...ih->...h", inner, down)
        return self.out(mixed * best.values.unsqueeze(-1))


class Shared(nn.Module):
    """Sigmoid top-2 with a selection bias over stacked experts, beside a shared expert."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.randn(5, WIDTH) / 2)
        self.register_buffer("bias", torch.randn(5) / 10)
        self.gate_up = nn.Parameter(torch.randn(5, 14, WIDTH) / 4)
        self.down = nn.Parameter(torch.randn(5, WIDTH, 7) / 4)
        self.shared = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = (x @ self.router.t()).sigmoid()
        ids = (scores + self.bias).topk(2, dim=-1).indices
        weights = scores.gather(-1, ids)
        gate, up = torch.einsum("...h,eih->...ei", x, self.gate_up).chunk(2, dim=-1)
        each = torch.einsum("...ei,ehi->...eh", nn.functional.silu(gate) * up, self.down)
        chosen = each.gather(-2, ids.unsqueeze(-1).expand(*ids.shape, WIDTH))
        return (weights.unsqueeze(-1) * chosen).sum(-2) + self.shared(x), scores


class TinyVLM(nn.Module):
    """``image [B, 4, 4]`` and ``tokens [B, S]`` to ``logits`` and ``hidden``."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(4, WIDTH)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.first = Mixtral()
        self.second = Shared()
        self.third = Own()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("steps_trained", torch.tensor(3))

    def forward(self, image: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        x = torch.cat([self.patches(image), self.embedding(tokens)], dim=1)
        x = x + self.first(self.norm(x))
        x = x + x.mean(dim=1, keepdim=True)
        y, _ = self.second(x)
        hidden = x + y + self.third(x)
        return {"logits": self.head(hidden), "hidden": hidden}


@moe_export.model_factory
def build() -> TinyVLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = TinyVLM()
        nn.init.normal_(model.first.gate.weight)  # lively routing
    return model.eval()


def example_inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    image = torch.randn(3, 4, 4, generator=generator)
    return image, torch.randint(VOCABULARY, (3, 6), generator=generator)
