"""Clamped SwiGLU in concatenated halves with its constants in the config, sigmoid router."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class MoEConfig:
    hidden_size: int
    intermediate_size: int
    num_local_experts: int
    num_experts_per_tok: int
    swiglu_alpha: float
    swiglu_limit: float


class ClampedExperts(nn.Module):
    def __init__(self, config: MoEConfig):
        super().__init__()
        e, h, i = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.config = config
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * i, h).normal_(std=0.02))
        self.down_proj = nn.Parameter(torch.empty(e, h, i).normal_(std=0.02))

    def run_expert(self, e: int, x: torch.Tensor) -> torch.Tensor:
        gate, up = torch.split(x @ self.gate_up_proj[e].T, self.config.intermediate_size, dim=-1)
        limit = self.config.swiglu_limit
        gate = torch.clamp(gate, max=limit)
        up = torch.clamp(up, -limit, limit)
        return ((up + 1) * (gate * torch.sigmoid(gate * self.config.swiglu_alpha))) @ (
            self.down_proj[e].T
        )


class ClampedMoE(nn.Module):
    def __init__(self, config: MoEConfig):
        super().__init__()
        self.config = config
        self.gate = nn.Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = ClampedExperts(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.config.hidden_size)
        scores = self.gate(flat).sigmoid()
        weights, ids = scores.topk(self.config.num_experts_per_tok, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        out = torch.zeros_like(flat)
        for e in range(self.config.num_local_experts):
            t, k = (ids == e).nonzero(as_tuple=True)
            out[t] += weights[t, k, None] * self.experts.run_expert(e, flat[t])
        return out.reshape(x.shape)
