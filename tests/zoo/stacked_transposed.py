"""Stacked experts stored input-major, ``[E, H, 2I]`` and ``[E, I, H]``, looped where hit."""

import torch
import torch.nn.functional as F
from torch import nn


class TransposedExperts(nn.Module):
    def __init__(self, num_experts, hidden_dim, expert_dim):
        super().__init__()
        self.num_experts = num_experts
        self.gate_up_proj = nn.Parameter(torch.randn(num_experts, hidden_dim, 2 * expert_dim))
        self.down_proj = nn.Parameter(torch.randn(num_experts, expert_dim, hidden_dim))

    def forward(self, hidden_states, top_k_index, top_k_weights):
        out = torch.zeros_like(hidden_states)
        with torch.no_grad():
            mask = F.one_hot(top_k_index, num_classes=self.num_experts).permute(2, 1, 0)
            hit = mask.sum(dim=(-1, -2)).greater(0).nonzero()
        for expert in hit:
            e = expert[0]
            pos, token = torch.where(mask[e])
            gate, up = (hidden_states[token] @ self.gate_up_proj[e]).chunk(2, dim=-1)
            current = (up * F.silu(gate)) @ self.down_proj[e]
            out.index_add_(0, token, current * top_k_weights[token, pos, None])
        return out


class TransposedMoE(nn.Module):
    def __init__(self, hidden_dim, expert_dim, num_experts, top_k):
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(hidden_dim, num_experts, bias=False)
        self.experts = TransposedExperts(num_experts, hidden_dim, expert_dim)

    def forward(self, hidden_states):
        b, s, h = hidden_states.shape
        hidden_states = hidden_states.reshape(-1, h)
        probs = self.gate(hidden_states).softmax(dim=-1)
        weights, index = torch.topk(probs, self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return self.experts(hidden_states, index, weights).reshape(b, s, h)
