"""Interleaved gate and up with a clamped SwiGLU and biases; softmax over the chosen logits."""

import torch
import torch.nn.functional as F
from torch import nn


def swiglu(x, alpha: float = 1.702, limit: float = 7.0):
    x_glu, x_linear = x[..., ::2], x[..., 1::2]
    x_glu = x_glu.clamp(max=limit)
    x_linear = x_linear.clamp(min=-limit, max=limit)
    return x_glu * torch.sigmoid(alpha * x_glu) * (x_linear + 1)


class Router(nn.Module):
    def __init__(self, hidden, experts, top_k):
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.zeros(experts, hidden))
        self.bias = nn.Parameter(torch.zeros(experts))

    def forward(self, t):
        logits = F.linear(t, self.weight, self.bias)
        value, index = torch.topk(logits, self.top_k, dim=-1)
        return torch.softmax(value, dim=1), index


class MLPBlock(nn.Module):
    def __init__(self, hidden, inner, experts, top_k):
        super().__init__()
        self.router = Router(hidden, experts, top_k)
        self.mlp1_weight = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.mlp1_bias = nn.Parameter(torch.zeros(experts, 2 * inner))
        self.mlp2_weight = nn.Parameter(torch.empty(experts, hidden, inner))
        self.mlp2_bias = nn.Parameter(torch.zeros(experts, hidden))

    def forward(self, x):
        t = x.view(-1, x.size(-1))
        expert_weights, expert_indices = self.router(t)
        # MLP #1, on the chosen experts' own matrices
        w = self.mlp1_weight[expert_indices]
        t = torch.einsum("beck,bk->bec", w, t) + self.mlp1_bias[expert_indices]
        t = swiglu(t)
        # MLP #2
        w = self.mlp2_weight[expert_indices]
        t = torch.einsum("beck,bek->bec", w, t) + self.mlp2_bias[expert_indices]
        return torch.einsum("bec,be->bc", t, expert_weights).view_as(x)
