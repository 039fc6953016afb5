"""Rows that hold what the router reads beside what the experts read, as a layer has them."""

import torch
from torch import nn

from .gemma4_like import GemmaExperts, GemmaRouter


class SideBySideMoe(nn.Module):
    def __init__(self, hidden_size, intermediate_size, num_experts, top_k):
        super().__init__()
        self.router = GemmaRouter(hidden_size, num_experts, top_k)
        self.experts = GemmaExperts(hidden_size, intermediate_size, num_experts)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        routed, hidden = rows.chunk(2, dim=-1)
        weights, index = self.router(routed)
        return self.experts(hidden, index, weights)
