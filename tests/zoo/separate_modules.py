"""A router module with its own weight that returns weights and ids, and an experts module."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TopKRouter(nn.Module):
    """Scores tokens against one learned vector per expert."""

    def __init__(self, dim: int, num_experts: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.weight = nn.Parameter(torch.empty(num_experts, dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        probs = F.softmax(F.linear(x, self.weight), dim=-1)
        weights, ids = torch.topk(probs, self.k, dim=-1)
        return weights / torch.sum(weights, dim=-1, keepdim=True), ids


class GroupedExperts(nn.Module):
    """SwiGLU experts, one stacked parameter per projection."""

    def __init__(self, dim: int, hidden: int, num_experts: int) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(num_experts, hidden, dim))
        self.w_up = nn.Parameter(torch.empty(num_experts, hidden, dim))
        self.w_down = nn.Parameter(torch.empty(num_experts, dim, hidden))
        for w in (self.w_gate, self.w_up, self.w_down):
            nn.init.trunc_normal_(w, std=0.02)

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for e in torch.unique(ids).tolist():
            rows, slots = torch.where(ids == e)
            h = F.silu(F.linear(x[rows], self.w_gate[e])) * F.linear(x[rows], self.w_up[e])
            y.index_add_(0, rows, weights[rows, slots, None] * F.linear(h, self.w_down[e]))
        return y


class MoE(nn.Module):
    """Accepts flat tokens ``[T, D]`` only."""

    def __init__(self, dim: int, hidden: int, num_experts: int, k: int) -> None:
        super().__init__()
        self.router = TopKRouter(dim, num_experts, k)
        self.experts = GroupedExperts(dim, hidden, num_experts)

    def forward(self, x: Tensor) -> Tensor:
        return self.experts(x, *self.router(x))
