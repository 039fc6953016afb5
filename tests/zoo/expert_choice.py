"""Look-alike: every expert chooses its tokens, a top-k along the other axis."""

import torch
import torch.nn.functional as F
from torch import nn


class ExpertChoiceMoE(nn.Module):
    def __init__(self, dim, inner, num_experts, capacity_factor=2):
        super().__init__()
        self.capacity_factor = capacity_factor
        self.num_experts = num_experts
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(num_experts, dim, inner))
        self.w2 = nn.Parameter(torch.randn(num_experts, inner, dim))

    def forward(self, x):
        tokens = x.flatten(0, -2)
        n = tokens.shape[0]
        k = min(n, max(1, n * self.capacity_factor // self.num_experts))
        scores = F.softmax(self.gate(tokens), dim=-1)
        g, chosen = torch.topk(scores.t(), k, dim=-1)  # [E, k] tokens of each expert
        picked = tokens[chosen]
        out = torch.bmm(F.gelu(torch.bmm(picked, self.w1)), self.w2) * g.unsqueeze(-1)
        y = torch.zeros_like(tokens)
        y.index_add_(0, chosen.flatten(), out.flatten(0, 1))
        return y.view_as(x)
