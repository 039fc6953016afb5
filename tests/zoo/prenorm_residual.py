"""A whole sub-layer: layer norm, routed experts on the normalised tokens, and the residual."""

import torch
from torch import nn


class PositionwiseExpert(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.activation = nn.GELU()

    def forward(self, x):
        return self.linear2(self.activation(self.linear1(x)))


class MoESubLayer(nn.Module):
    def __init__(self, d_model, d_ff, n_experts, k):
        super().__init__()
        self.k = k
        self.norm = nn.LayerNorm(d_model)
        self.gate = nn.Linear(d_model, n_experts)
        self.experts = nn.ModuleList(PositionwiseExpert(d_model, d_ff) for _ in range(n_experts))

    def _mixture(self, h):
        gate_probs = torch.softmax(self.gate(h), dim=-1)
        p, chosen = torch.topk(gate_probs, self.k, dim=-1)
        p = p / p.sum(dim=-1, keepdim=True)
        mixed = torch.zeros_like(h)
        for j, expert in enumerate(self.experts):
            share = torch.where(chosen == j, p, torch.zeros_like(p)).sum(dim=-1)
            active = share > 0
            mixed[active] += share[active].unsqueeze(-1) * expert(h[active])
        return mixed

    def forward(self, x):
        return x + self._mixture(self.norm(x))
