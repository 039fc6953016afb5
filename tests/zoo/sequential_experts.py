"""A router with a bias over ``nn.Sequential(Linear, GELU, Dropout, Linear)`` experts."""

import torch
from torch import nn


def make_expert(d_in, d_hidden, p):
    return nn.Sequential(
        nn.Linear(d_in, d_hidden), nn.GELU(), nn.Dropout(p), nn.Linear(d_hidden, d_in)
    )


class SequentialMoE(nn.Module):
    def __init__(self, d_in, d_hidden, num_experts, k, p=0.1):
        super().__init__()
        self.num_experts, self.k = num_experts, k
        self.router = nn.Linear(d_in, num_experts, bias=True)
        self.experts = nn.ModuleList([make_expert(d_in, d_hidden, p) for _ in range(num_experts)])

    def forward(self, x):
        scores = torch.softmax(self.router(x), -1)
        top_scores, top_experts = torch.topk(scores, self.k, -1)
        out = torch.zeros_like(x)
        for slot in range(self.k):
            for n in range(self.num_experts):
                mask = top_experts[..., slot] == n
                if not mask.any():
                    continue
                out[mask] = out[mask] + top_scores[..., slot][mask].unsqueeze(-1) * self.experts[n](
                    x[mask]
                )
        return out
