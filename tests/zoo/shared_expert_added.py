"""Shared experts (as one wider MLP) added to the routed sum; sigmoid scores, renormalised."""

import torch
from torch import nn


class FeedForward(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def forward(self, x):
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class MoEFeedForward(nn.Module):
    def __init__(self, dim, hidden_dim, n_routed, n_shared, n_active):
        super().__init__()
        self.n_active = n_active
        self.gate = nn.Linear(dim, n_routed, bias=False)
        self.experts = nn.ModuleList([FeedForward(dim, hidden_dim) for _ in range(n_routed)])
        self.shared_experts = FeedForward(dim, n_shared * hidden_dim)

    def forward(self, x):
        identity = x
        orig_shape = x.shape
        x = x.view(-1, x.shape[-1])

        scores = torch.sigmoid(self.gate(x))
        topk_weight, topk_idx = torch.topk(scores, k=self.n_active, dim=-1, sorted=False)
        topk_weight = topk_weight / topk_weight.sum(dim=-1, keepdim=True)

        flat_topk_idx = topk_idx.view(-1)
        x = x.repeat_interleave(self.n_active, dim=0)
        y = torch.empty_like(x)
        for i, expert in enumerate(self.experts):
            y[flat_topk_idx == i] = expert(x[flat_topk_idx == i])
        y = (y.view(*topk_weight.shape, -1) * topk_weight.unsqueeze(-1)).sum(dim=1)
        y = y.view(*orig_shape)
        return y + self.shared_experts(identity)
