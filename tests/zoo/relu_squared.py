"""Ungated squared-ReLU experts under a sigmoid router, renormalised and scaled."""

import torch
from torch import nn


class ReLUSquared(nn.Module):
    def forward(self, x):
        return torch.square(torch.relu(x))


class NemotronLikeMLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.act_fn = ReLUSquared()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x)))


class NemotronLikeMoE(nn.Module):
    def __init__(self, hidden_size, intermediate_size, n_experts, top_k, scaling_factor):
        super().__init__()
        self.top_k = top_k
        self.scaling_factor = scaling_factor
        self.gate = nn.Linear(hidden_size, n_experts, bias=False)
        self.experts = nn.ModuleList(
            [NemotronLikeMLP(hidden_size, intermediate_size) for _ in range(n_experts)]
        )

    def route_tokens(self, tokens):
        affinity = self.gate(tokens).sigmoid()
        weights, ids = affinity.topk(self.top_k, dim=-1, sorted=False)
        return ids, weights * (self.scaling_factor / weights.sum(dim=-1, keepdim=True))

    def forward(self, hidden_states):
        tokens = hidden_states.view(-1, hidden_states.shape[-1])
        ids, weights = self.route_tokens(tokens)
        per_expert = torch.zeros(tokens.shape[0], len(self.experts), dtype=tokens.dtype)
        per_expert.scatter_(1, ids, weights)
        out = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            rows = per_expert[:, e].nonzero().flatten()
            out[rows] += per_expert[rows, e, None] * expert(tokens[rows])
        return out.view_as(hidden_states)
