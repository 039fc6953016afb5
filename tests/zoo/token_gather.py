"""Each token gathers the matrices of its experts (``w[ids]``) and multiplies by them in einsum."""

import torch
import torch.nn.functional as F
from torch import nn


class ConditionalFeedForward(nn.Module):
    def __init__(self, dim, intermediate_size, num_experts):
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(num_experts, intermediate_size, dim))
        self.w2 = nn.Parameter(torch.empty(num_experts, dim, intermediate_size))
        self.w3 = nn.Parameter(torch.empty(num_experts, intermediate_size, dim))

    def forward(self, x, expert_indices):
        w1_weights = self.w1[expert_indices]  # [T, A, I, D]
        w3_weights = self.w3[expert_indices]
        w2_weights = self.w2[expert_indices]  # [T, A, D, I]
        x1 = F.silu(torch.einsum("ti,taoi->tao", x, w1_weights))
        x3 = torch.einsum("ti,taoi->tao", x, w3_weights)
        return torch.einsum("tao,taio->tai", x1 * x3, w2_weights)


class MOEFeedForward(nn.Module):
    def __init__(self, dim, intermediate_size, num_experts, num_activated_experts):
        super().__init__()
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.cond_ffn = ConditionalFeedForward(dim, intermediate_size, num_experts)
        self.dim = dim
        self.num_activated_experts = num_activated_experts

    def forward(self, x):
        x = x.view(-1, self.dim)
        scores = self.gate(x)
        expert_weights = F.softmax(scores, dim=-1)
        expert_weights, expert_indices = torch.topk(
            expert_weights, self.num_activated_experts, dim=-1
        )
        expert_weights /= expert_weights.sum(dim=-1, keepdim=True)
        expert_outs = self.cond_ffn(x, expert_indices)
        return torch.einsum("tai,ta->ti", expert_outs, expert_weights)
