"""A bias on the logits for the choice alone; the weights are sigmoids of the chosen logits."""

import torch
import torch.nn.functional as F
from torch import nn


class BiasedLogitsRouter(nn.Module):
    def __init__(self, hidden_size, num_experts, top_k):
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.zeros(num_experts, hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(num_experts))

    def forward(self, x):
        logits = F.linear(x, self.weight)
        index = torch.topk(logits + self.e_score_correction_bias, self.top_k, dim=-1).indices
        scores = logits.gather(1, index).sigmoid()
        return scores / scores.sum(dim=-1, keepdim=True), index


class BiasedLogitsMoe(nn.Module):
    def __init__(self, hidden_size, intermediate_size, num_experts, top_k):
        super().__init__()
        self.gate = BiasedLogitsRouter(hidden_size, num_experts, top_k)
        self.gate_up_proj = nn.Parameter(
            torch.empty(num_experts, 2 * intermediate_size, hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))

    def forward(self, hidden_states):
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        weights, index = self.gate(x)
        out = torch.zeros_like(x)
        for e in range(len(self.down_proj)):
            token, k = torch.where(index == e)
            gate, up = F.linear(x[token], self.gate_up_proj[e]).chunk(2, dim=-1)
            y = F.linear(F.silu(gate) * up, self.down_proj[e])
            out.index_add_(0, token, y * weights[token, k, None])
        return out.reshape(hidden_states.shape)
