"""Switch-style top-1: each token goes to its likeliest expert, scaled by that probability."""

import torch
import torch.nn.functional as F
from torch import nn


class DenseReluDense(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.wi = nn.Linear(d_model, d_ff, bias=False)
        self.wo = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        return self.wo(self.dropout(F.relu(self.wi(x))))


class SwitchFFN(nn.Module):
    def __init__(self, d_model, d_ff, num_experts):
        super().__init__()
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.mlp = nn.ModuleList(DenseReluDense(d_model, d_ff) for _ in range(num_experts))

    def forward(self, hidden_states):
        router_probs = F.softmax(self.router(hidden_states), dim=-1)
        expert_index = router_probs.argmax(dim=-1)
        gate = router_probs.max(dim=-1, keepdim=True).values

        next_states = torch.zeros_like(hidden_states)
        for idx, expert in enumerate(self.mlp):
            token_indices = expert_index == idx
            if token_indices.any():
                next_states[token_indices] = expert(hidden_states[token_indices])
        return gate * next_states
