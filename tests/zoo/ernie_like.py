"""Softmax scores, a ``[1, E]`` bias for the choice alone, and a denominator clamped from below."""

import torch
import torch.nn.functional as F
from torch import nn


class MoeStatics(nn.Module):
    """Balancing state of the router."""

    def __init__(self, num_experts):
        super().__init__()
        self.e_score_correction_bias = nn.Parameter(torch.zeros(1, num_experts))

    def forward(self, probs):
        return probs + self.e_score_correction_bias.squeeze()


class ErnieExpert(nn.Module):
    def __init__(self, hidden_size, intermediate_size, use_bias):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=use_bias)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=use_bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=use_bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ErnieSparseMoe(nn.Module):
    def __init__(self, hidden_size, intermediate_size, num_experts, moe_k, norm_min):
        super().__init__()
        self.top_k = moe_k
        self.norm_min = norm_min
        self.moe_statics = MoeStatics(num_experts)
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.experts = nn.ModuleList(
            ErnieExpert(hidden_size, intermediate_size, use_bias=True) for _ in range(num_experts)
        )

    def forward(self, hidden_states):
        batch, length, width = hidden_states.shape
        hidden_states = hidden_states.view(-1, width)
        routing_weights = F.softmax(self.gate(hidden_states), dim=1)
        _, selected = torch.topk(self.moe_statics(routing_weights), self.top_k, dim=-1)
        routing_weights = torch.gather(routing_weights, dim=-1, index=selected)
        routing_weights = routing_weights / torch.clamp(
            routing_weights.sum(dim=-1, keepdim=True), min=self.norm_min
        )
        output = torch.zeros_like(hidden_states)
        for index, expert in enumerate(self.experts):
            token, slot = torch.where(selected == index)
            output.index_add_(
                0, token, expert(hidden_states[token]) * routing_weights[token, slot, None]
            )
        return output.reshape(batch, length, width)
