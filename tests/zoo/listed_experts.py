"""Experts in a ``ParameterList`` of matrices, and experts in a ``ModuleDict`` by name."""

import torch
from torch import nn


class ParameterListMoE(nn.Module):
    def __init__(self, dim, ff, n, k):
        super().__init__()
        self.n, self.k = n, k
        self.gate = nn.Linear(dim, n, bias=False)
        self.W_in = nn.ParameterList([nn.Parameter(torch.randn(dim, ff)) for _ in range(n)])
        self.W_out = nn.ParameterList([nn.Parameter(torch.randn(ff, dim)) for _ in range(n)])

    def forward(self, x):
        vals, idx = self.gate(x).softmax(-1).topk(self.k, -1)
        y = 0
        for e in range(self.n):
            w = (vals * (idx == e)).sum(-1, keepdim=True)  # 0 where not routed here
            y = y + w * (torch.nn.functional.silu(x @ self.W_in[e]) @ self.W_out[e])
        return y


class ModuleDictMoE(nn.Module):
    def __init__(self, dim, ff, names, k):
        super().__init__()
        self.k = k
        self.names = list(names)
        self.router = nn.Linear(dim, len(self.names))
        self.specialists = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(dim, ff), nn.ReLU(), nn.Linear(ff, dim))
                for name in self.names
            }
        )

    def forward(self, x):
        logits = self.router(x)
        best, who = logits.topk(self.k, dim=-1)
        best = best.softmax(dim=-1)
        out = torch.zeros_like(x)
        for number, name in enumerate(self.names):
            amount = best.masked_fill(who != number, 0.0).sum(-1)
            here = (who == number).any(-1)
            if here.any():
                out[here] += amount[here, None] * self.specialists[name](x[here])
        return out
