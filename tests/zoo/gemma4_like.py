"""Norm and learned scale before the router, tanh-GELU experts, an output scale per expert."""

import torch
import torch.nn.functional as F
from torch import nn


class GemmaRouter(nn.Module):
    def __init__(self, hidden_size, num_experts, top_k):
        super().__init__()
        self.top_k = top_k
        self.scalar_root_size = hidden_size**-0.5
        self.scale = nn.Parameter(torch.ones(hidden_size))
        self.proj = nn.Linear(hidden_size, num_experts, bias=False)
        self.per_expert_scale = nn.Parameter(torch.ones(num_experts))

    def forward(self, x):
        normed = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        expert_scores = self.proj(normed * self.scale * self.scalar_root_size * 4.0)
        probabilities = F.softmax(expert_scores, dim=-1)
        weights, index = torch.topk(probabilities, k=self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights * self.per_expert_scale[index], index


class GemmaExperts(nn.Module):
    def __init__(self, hidden_size, intermediate_size, num_experts):
        super().__init__()
        self.num_experts = num_experts
        self.gate_up_proj = nn.Parameter(
            torch.empty(num_experts, 2 * intermediate_size, hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        self.act_fn = nn.GELU(approximate="tanh")

    def forward(self, x, index, weights):
        out = torch.zeros_like(x)
        for e in range(self.num_experts):
            token, k = torch.where(index == e)
            gate, up = F.linear(x[token], self.gate_up_proj[e]).chunk(2, dim=-1)
            y = F.linear(self.act_fn(gate) * up, self.down_proj[e])
            out.index_add_(0, token, y * weights[token, k, None])
        return out


class GemmaMoe(nn.Module):
    def __init__(self, hidden_size, intermediate_size, num_experts, top_k):
        super().__init__()
        self.router = GemmaRouter(hidden_size, num_experts, top_k)
        self.experts = GemmaExperts(hidden_size, intermediate_size, num_experts)

    def forward(self, hidden_states):
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        weights, index = self.router(flat)
        return self.experts(flat, index, weights).reshape(hidden_states.shape)
