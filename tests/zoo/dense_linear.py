"""Dense softmax mixture of linear experts: the textbook weighted average of all of them."""

import torch
from torch import nn


class MixtureOfExperts(nn.Module):
    def __init__(self, input_dim, output_dim, num_experts):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(input_dim, output_dim) for _ in range(num_experts)])
        self.gating_network = nn.Linear(input_dim, num_experts)

    def forward(self, x):
        weights = torch.softmax(self.gating_network(x), dim=-1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-2)  # [B, S, E, out]
        return (outputs * weights.unsqueeze(-1)).sum(dim=-2)
