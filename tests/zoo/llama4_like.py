"""Llama-4-style: the sigmoid of the chosen logit scales the expert's input; a shared expert too."""

import torch
from torch import nn


class TextExperts(nn.Module):
    def __init__(self, num_experts, hidden_size, expert_dim):
        super().__init__()
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.gate_up_proj = nn.Parameter(torch.zeros(num_experts, hidden_size, 2 * expert_dim))
        self.down_proj = nn.Parameter(torch.empty((num_experts, expert_dim, hidden_size)))
        self.act_fn = nn.SiLU()

    def forward(self, routed_in):
        rows = routed_in.view(self.num_experts, -1, self.hidden_size)
        gate, up = torch.bmm(rows, self.gate_up_proj).chunk(2, dim=-1)
        return torch.bmm(up * self.act_fn(gate), self.down_proj).view(-1, self.hidden_size)


class TextMLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.activation_fn = nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.activation_fn(self.gate_proj(x)) * self.up_proj(x))


class TextMoe(nn.Module):
    def __init__(self, hidden_size, expert_dim, num_experts, top_k=1):
        super().__init__()
        self.top_k = top_k
        self.hidden_dim = hidden_size
        self.num_experts = num_experts
        self.experts = TextExperts(num_experts, hidden_size, expert_dim)
        self.router = nn.Linear(hidden_size, num_experts, bias=False)
        self.shared_expert = TextMLP(hidden_size, expert_dim)

    def forward(self, hidden_states):
        hidden_states = hidden_states.reshape(-1, self.hidden_dim)
        router_logits = self.router(hidden_states)
        top_value, top_index = torch.topk(router_logits, self.top_k, dim=1)
        scores = torch.full_like(router_logits, float("-inf")).scatter_(1, top_index, top_value)
        scores = torch.sigmoid(scores).transpose(0, 1)  # [E, T]; sigmoid(-inf) is 0

        routed_in = hidden_states.repeat(self.num_experts, 1) * scores.reshape(-1, 1)
        routed_out = self.experts(routed_in).reshape(self.num_experts, -1, self.hidden_dim)
        out = self.shared_expert(hidden_states)
        out.add_(routed_out.sum(dim=0))
        return out, scores
