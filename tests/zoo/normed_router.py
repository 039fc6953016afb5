"""The router sees RMS-normalised tokens and divides its logits by a temperature; experts do not."""

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Ffn(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.lin_in = nn.Linear(dim, inner)
        self.lin_out = nn.Linear(inner, dim)

    def forward(self, x):
        return self.lin_out(F.silu(self.lin_in(x)))


class NormedRouterMoE(nn.Module):
    def __init__(self, dim, inner, num_experts, k, temperature):
        super().__init__()
        self.k = k
        self.temperature = temperature
        self.router_norm = RMSNorm(dim)
        self.router_proj = nn.Linear(dim, num_experts, bias=False)
        self.ffns = nn.ModuleList(Ffn(dim, inner) for _ in range(num_experts))

    def forward(self, x):
        logits = self.router_proj(self.router_norm(x)) / self.temperature
        probs = logits.softmax(dim=-1)
        top_p, top_i = probs.topk(self.k, dim=-1)
        keep = torch.zeros_like(probs).scatter_(-1, top_i, top_p)
        # a small model: run them all and weight by zero
        return sum(keep[..., i : i + 1] * ffn(x) for i, ffn in enumerate(self.ffns))
