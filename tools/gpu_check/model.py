"""The model of the engines' step: one MoE layer of each kind of plugin node, all of even widths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 64


class Gated(nn.Module):
    """Softmax top-2 over gated experts."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 8, bias=False)
        self.gate_up = nn.Parameter(torch.randn(8, 2 * 32, WIDTH) / 8)
        self.down = nn.Parameter(torch.randn(8, WIDTH, 32) / 6)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        weights, ids = self.router(rows).softmax(-1).topk(2, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(rows)
        for expert in range(8):
            token, choice = torch.where(ids == expert)
            gate, up = (rows[token] @ self.gate_up[expert].t()).chunk(2, dim=-1)
            mixed = (self.activation(gate) * up) @ self.down[expert].t()
            y.index_add_(0, token, mixed * weights[token, choice, None])
        return y.reshape(x.shape)


class Model(nn.Module):
    """``x [B, S, 64]``; tanh is no activation of the fused op, so one layer is in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Gated(nn.SiLU()), Gated(nn.Tanh()), Gated(nn.GELU())])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(nn.functional.layer_norm(x, (WIDTH,)))
        return x


def model() -> nn.Module:
    """With the same weights each time."""
    torch.manual_seed(0)
    return Model().eval()


def example() -> dict[str, Tensor]:
    """Its input."""
    return {"x": torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))}
