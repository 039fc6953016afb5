"""Top-k softmax whose weights keep their share of the whole; router in f32 where asked."""

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class OlmoLikeMoe(nn.Module):
    def __init__(self, hidden_size, intermediate_size, num_experts, top_k, router_dtype=None):
        super().__init__()
        self.top_k = top_k
        self.router_dtype = router_dtype
        self.norm_topk_prob = False
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(hidden_size, intermediate_size) for _ in range(num_experts)
        )

    def forward(self, hidden_states):
        flat = hidden_states.flatten(0, -2)
        probs = F.softmax(self.gate(flat), dim=1, dtype=self.router_dtype)
        weights, ids = probs.topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        weights = weights.to(flat.dtype)

        result = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, nth = torch.where(ids == e)
            result.index_add_(0, token, expert(flat[token]) * weights[token, nth].unsqueeze(-1))
        return result.view_as(hidden_states)
