"""Look-alike: experts of different widths, so no stack of weights holds them."""

import torch
from torch import nn


class HeterogeneousMoE(nn.Module):
    def __init__(self, dim, widths, k):
        super().__init__()
        self.k = k
        self.gate = nn.Linear(dim, len(widths), bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, dim))
            for width in widths
        )

    def forward(self, x):
        p, ids = self.gate(x).softmax(-1).topk(self.k, dim=-1)
        p = p / p.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            weight = (p * (ids == e)).sum(-1)
            on = (ids == e).any(-1)
            y[on] += weight[on].unsqueeze(-1) * expert(x[on])
        return y
