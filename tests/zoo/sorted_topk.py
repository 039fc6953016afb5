"""Top-k taken from a full descending sort; gated ReLU experts with biases."""

import torch
from torch import nn


class ReGLU(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.gate = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x):
        return self.down(self.up(x) * torch.relu(self.gate(x)))


class SortRoutedMoE(nn.Module):
    def __init__(self, width, inner, n_experts, active):
        super().__init__()
        self.active = active
        self.selector = nn.Linear(width, n_experts)
        self.experts = nn.ModuleList([ReGLU(width, inner) for _ in range(n_experts)])

    def forward(self, x):
        probs = torch.softmax(self.selector(x), dim=-1)
        ranked, order = torch.sort(probs, dim=-1, descending=True)
        ranked, order = ranked[..., : self.active], order[..., : self.active]
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            hit = order == e
            tokens = hit.any(dim=-1)
            weight = (ranked * hit).sum(dim=-1)
            y[tokens] += expert(x[tokens]) * weight[tokens].unsqueeze(-1)
        return y
