"""Synthetic models of many sizes, for measuring what an export costs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import moe_export


class ListedExperts(nn.Module):
    """Top-k experts as a list of modules, visited in a loop."""

    def __init__(self, hidden: int, intermediate: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(hidden, intermediate), nn.ReLU(), nn.Linear(intermediate, hidden)
            )
            for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weights, ids = torch.topk(self.gate(rows).softmax(-1), self.top_k)
        y = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(ids == number)
            y.index_add_(0, token, expert(rows[token]) * weights[token, place, None])
        return y.view_as(x)


class StackedExperts(nn.Module):
    """Top-k gated experts as stacked parameters, all evaluated and the chosen ones summed."""

    def __init__(self, hidden: int, intermediate: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.gate_proj = nn.Parameter(torch.randn(experts, hidden, intermediate) * hidden**-0.5)
        self.up_proj = nn.Parameter(torch.randn(experts, hidden, intermediate) * hidden**-0.5)
        self.down_proj = nn.Parameter(torch.randn(experts, intermediate, hidden) * hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weights, ids = torch.topk(self.gate(rows).softmax(-1), self.top_k)
        weights = weights / weights.sum(-1, keepdim=True)
        dense = torch.zeros(rows.shape[0], self.gate.out_features, dtype=weights.dtype)
        dense = dense.scatter(1, ids, weights)
        inner = F.silu(rows @ self.gate_proj) * (rows @ self.up_proj)
        return torch.einsum("te,eth->th", dense, inner @ self.down_proj).view_as(x)


class Layer(nn.Module):
    """A pre-norm transformer block whose feed-forward network is an MoE."""

    def __init__(self, hidden: int, moe: nn.Module) -> None:
        super().__init__()
        self.heads = hidden // 16
        self.attention_norm = nn.LayerNorm(hidden)
        self.qkv_proj = nn.Linear(hidden, 3 * hidden)
        self.o_proj = nn.Linear(hidden, hidden)
        self.moe_norm = nn.LayerNorm(hidden)
        self.moe = moe

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv_proj(self.attention_norm(x)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.o_proj(attended.transpose(1, 2).flatten(2))
        return x + self.moe(self.moe_norm(x))


class Stack(nn.Module):
    """Token ids to logits through MoE transformer blocks."""

    def __init__(self, vocabulary: int, hidden: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(Layer(hidden, moe) for moe in layers)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


@moe_export.model_factory
def stack(
    style: str, layers: int, experts: int, hidden: int, intermediate: int, top_k: int = 2
) -> Stack:
    """A stack of ``layers`` alike blocks; ``style`` is ``listed`` or ``stacked``."""
    kind = {"listed": ListedExperts, "stacked": StackedExperts}[style]
    return Stack(256, hidden, [kind(hidden, intermediate, experts, top_k) for _ in range(layers)])
