"""Look-alike: noisy top-k gating that adds its Gaussian noise in eval as well."""

import torch
import torch.nn.functional as F
from torch import nn


class NoisyTopkRouter(nn.Module):
    def __init__(self, n_embed, num_experts, top_k):
        super().__init__()
        self.top_k = top_k
        self.topkroute_linear = nn.Linear(n_embed, num_experts)
        self.noise_linear = nn.Linear(n_embed, num_experts)

    def forward(self, x):
        logits = self.topkroute_linear(x)
        noise = torch.randn_like(logits) * F.softplus(self.noise_linear(x))
        noisy_logits = logits + noise
        top_k_logits, indices = noisy_logits.topk(self.top_k, dim=-1)
        sparse_logits = torch.full_like(noisy_logits, float("-inf"))
        return F.softmax(sparse_logits.scatter(-1, indices, top_k_logits), dim=-1), indices


class NoisyMoE(nn.Module):
    def __init__(self, n_embed, num_experts, top_k):
        super().__init__()
        self.router = NoisyTopkRouter(n_embed, num_experts, top_k)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(n_embed, n_embed), nn.ReLU(), nn.Linear(n_embed, n_embed))
            for _ in range(num_experts)
        )

    def forward(self, x):
        gates, indices = self.router(x)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            chosen = (indices == i).any(dim=-1)
            y[chosen] += expert(x[chosen]) * gates[..., i][chosen].unsqueeze(-1)
        return y
