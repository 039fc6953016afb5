"""Routed experts beside one shared expert behind its own sigmoid gate; returns the logits too."""

import torch
import torch.nn.functional as F
from torch import nn


class GLU(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SharedGateMoeBlock(nn.Module):
    def __init__(self, hidden_size, moe_size, shared_size, num_experts, top_k):
        super().__init__()
        self.num_experts = num_experts
        self.top_k = top_k
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.experts = nn.ModuleList([GLU(hidden_size, moe_size) for _ in range(num_experts)])
        self.shared_expert = GLU(hidden_size, shared_size)
        self.shared_expert_gate = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, hidden_states):
        batch, length, dim = hidden_states.shape
        hidden_states = hidden_states.view(-1, dim)
        router_logits = self.gate(hidden_states)
        routing_weights = F.softmax(router_logits, dim=1)
        routing_weights, selected = torch.topk(routing_weights, self.top_k, dim=-1)

        final = torch.zeros((batch * length, dim), dtype=hidden_states.dtype)
        mask = F.one_hot(selected, num_classes=self.num_experts).permute(2, 1, 0)
        for expert_idx in range(self.num_experts):
            idx, top_x = torch.where(mask[expert_idx])
            states = hidden_states[top_x]
            states = self.experts[expert_idx](states) * routing_weights[top_x, idx, None]
            final.index_add_(0, top_x, states)

        shared = self.shared_expert(hidden_states)
        shared = F.sigmoid(self.shared_expert_gate(hidden_states)) * shared
        final = (final + shared).reshape(batch, length, dim)
        return final, router_logits
