"""Softmax scores, best groups by their best expert, greedy top-k in them, scaled by a constant."""

import torch
from torch import nn


class Gate(nn.Module):
    def __init__(self, hidden, experts, k, groups, limit_groups, route_scale):
        super().__init__()
        self.proj = nn.Linear(hidden, experts, bias=False)
        self.k, self.groups, self.limit_groups = k, groups, limit_groups
        self.route_scale = route_scale

    def forward(self, x):
        scores = self.proj(x).softmax(dim=-1)
        per_group = scores.unflatten(-1, (self.groups, -1))
        winners = per_group.amax(-1).topk(self.limit_groups, dim=-1)[1]
        mask = torch.zeros_like(per_group[..., 0]).scatter_(1, winners, 1.0)
        # scores are positive, so 0 keeps the other groups out
        allowed = (per_group * mask.unsqueeze(-1)).flatten(-2)
        w, idx = allowed.topk(self.k, dim=-1)
        return w * self.route_scale, idx


class SwiGLU(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.w12 = nn.Linear(hidden, 2 * inner, bias=False)
        self.w3 = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(nn.functional.silu(a) * b)


class GroupLimitedMoE(nn.Module):
    def __init__(self, hidden, inner, experts, **gate):
        super().__init__()
        self.gate = Gate(hidden, experts, **gate)
        self.experts = nn.ModuleList(SwiGLU(hidden, inner) for _ in range(experts))

    def forward(self, x):
        tokens = x.reshape(-1, x.size(-1))
        w, idx = self.gate(tokens)
        y = torch.zeros_like(tokens)
        for i in range(len(self.experts)):
            row, col = torch.where(idx == i)
            if row.numel() == 0:
                continue
            y[row] += self.experts[i](tokens[row]) * w[row, col, None]
        return y.view_as(x)
