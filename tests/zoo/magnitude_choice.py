"""Look-alike: a cosine router that chooses by |logit| but weighs by the signed logits."""

import torch
import torch.nn.functional as F
from torch import nn


class CosineMagnitudeMoE(nn.Module):
    def __init__(self, dim, inner, num_experts, k, tau=0.2):
        super().__init__()
        self.k, self.tau = k, tau
        self.anchors = nn.Parameter(torch.randn(num_experts, dim))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))
            for _ in range(num_experts)
        )

    def forward(self, x):
        cosine = F.normalize(x, dim=-1) @ F.normalize(self.anchors, dim=-1).t()
        logits = cosine / self.tau
        ids = logits.abs().topk(self.k, dim=-1).indices
        weights = logits.softmax(dim=-1).gather(-1, ids)
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            on = (ids == e).any(dim=-1)
            y[on] += (weights * (ids == e)).sum(-1)[on].unsqueeze(-1) * expert(x[on])
        return y
