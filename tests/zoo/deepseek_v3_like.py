"""Sigmoid scores with a selection bias, best groups by the sum of their two best, scaled."""

import torch
import torch.nn.functional as F
from torch import nn


class NoAuxTopkGate(nn.Module):
    def __init__(self, dim, n_routed, top_k, n_group, topk_group, scaling):
        super().__init__()
        self.top_k, self.n_group, self.topk_group = top_k, n_group, topk_group
        self.n_routed_experts = n_routed
        self.routed_scaling_factor = scaling
        self.weight = nn.Parameter(torch.randn(n_routed, dim) * 0.02)
        self.register_buffer("e_score_correction_bias", torch.zeros(n_routed))

    def forward(self, x):
        scores = F.linear(x, self.weight).sigmoid()
        for_choice = scores + self.e_score_correction_bias
        grouped = for_choice.view(-1, self.n_group, self.n_routed_experts // self.n_group)
        group_scores = grouped.topk(2, dim=-1).values.sum(-1)
        best = group_scores.topk(self.topk_group, dim=-1, sorted=False).indices
        keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(1, best, True)
        masked = grouped.masked_fill(~keep.unsqueeze(-1), float("-inf")).flatten(1)
        topk_idx = masked.topk(self.top_k, dim=-1, sorted=False).indices
        topk_weight = scores.gather(1, topk_idx)
        topk_weight = topk_weight / (topk_weight.sum(-1, keepdim=True) + 1e-20)
        return topk_idx, topk_weight * self.routed_scaling_factor


class MLP(nn.Module):
    def __init__(self, dim, inter):
        super().__init__()
        self.gate_proj = nn.Linear(dim, inter, bias=False)
        self.up_proj = nn.Linear(dim, inter, bias=False)
        self.down_proj = nn.Linear(inter, dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DeepseekMoE(nn.Module):
    def __init__(self, dim, inter, n_routed, top_k, n_group, topk_group, scaling):
        super().__init__()
        self.gate = NoAuxTopkGate(dim, n_routed, top_k, n_group, topk_group, scaling)
        self.experts = nn.ModuleList([MLP(dim, inter) for _ in range(n_routed)])

    def forward(self, hidden_states):
        orig_shape = hidden_states.shape
        x = hidden_states.view(-1, orig_shape[-1])
        topk_indices, topk_weights = self.gate(x)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            tokens, which = (topk_indices == i).nonzero(as_tuple=True)
            if tokens.numel() > 0:
                y.index_add_(0, tokens, expert(x[tokens]) * topk_weights[tokens, which][:, None])
        return y.view(orig_shape)
