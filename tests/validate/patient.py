"""A small vision-language model with one of everything that an export can get wrong.

Pixels are normalised, a tower makes patches of them, attention goes on from a cache, and of two
MoE blocks one has biases and gated experts and the other a shared expert beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 12
VOCABULARY = 17


class Gated(nn.Module):
    """Normalized top-2 of six gated experts with biases; the matrices behind are square."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 6, bias=False)
        self.gate_up = nn.Parameter(torch.randn(6, 2 * WIDTH, WIDTH) / 3)
        self.gate_up_bias = nn.Parameter(torch.randn(6, 2 * WIDTH) / 4)
        self.down = nn.Parameter(torch.randn(6, WIDTH, WIDTH) / 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        weights, ids = self.gate(rows).softmax(-1).topk(2, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(rows)
        for expert in range(6):
            token, choice = torch.where(ids == expert)
            hidden = F.linear(rows[token], self.gate_up[expert], self.gate_up_bias[expert])
            gate, up = hidden.chunk(2, dim=-1)
            made = F.linear(F.silu(gate) * up, self.down[expert])
            y.index_add_(0, token, made * weights[token, choice, None])
        return y.reshape(x.shape)


class Shared(nn.Module):
    """Sigmoid top-2 of five experts beside a shared one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 5, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 8), nn.SiLU(), nn.Linear(8, WIDTH)) for _ in range(5)
        )
        self.shared = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        weights, ids = self.gate(rows).sigmoid().topk(2, dim=-1)
        y = self.shared(rows)
        for number, expert in enumerate(self.experts):
            token, choice = torch.where(ids == number)
            y = y.index_add(0, token, expert(rows[token]) * weights[token, choice, None])
        return y.reshape(x.shape)


class Attention(nn.Module):
    """One head that sees the cache and all rows that follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(
        self, x: Tensor, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        keys = torch.cat([past_key, self.key(x)], dim=1)
        values = torch.cat([past_value, self.value(x)], dim=1)
        scores = self.query(x) @ keys.transpose(1, 2) / WIDTH**0.5
        return scores.softmax(-1) @ values, keys, values


class Patient(nn.Module):
    """``image [B, 4, 4]``, ``tokens [B, S]`` and a cache ``[B, P, H]`` to ``logits`` and cache."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.6, 0.3]))
        self.register_buffer("deviation", torch.tensor([0.25, 0.2, 0.3, 0.4]))
        self.tower = nn.Linear(4, WIDTH)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.attention = Attention()
        self.norm = nn.LayerNorm(WIDTH)
        self.first = Gated()
        self.second = Shared()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(
        self, image: Tensor, tokens: Tensor, past_key: Tensor, past_value: Tensor
    ) -> dict[str, Tensor]:
        patches = self.tower((image - self.mean) / self.deviation)
        x = torch.cat([patches, self.embedding(tokens)], dim=1)
        seen, keys, values = self.attention(x, past_key, past_value)
        x = self.norm(x + seen)
        x = x + self.first(x)
        x = x + self.second(x)
        return {"logits": self.head(x), "present_key": keys, "present_value": values}


def build() -> Patient:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Patient()
        nn.init.normal_(model.first.gate.weight)  # lively routing
        nn.init.normal_(model.second.gate.weight)
    return model.eval()


def example_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    image = torch.rand(3, 4, 4, generator=generator)
    tokens = torch.randint(VOCABULARY, (3, 9), generator=generator)
    past = torch.randn(2, 3, 5, WIDTH, generator=generator)
    return image, tokens, past[0], past[1]
