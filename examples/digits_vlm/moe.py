"""A sparse mixture-of-experts (MoE) feed-forward layer with a shared expert."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class SwiGLU(nn.Module):
    """``down_proj(silu(gate_proj(x)) * up_proj(x))``.

    N. Shazeer, "GLU Variants Improve Transformer", 2020, https://arxiv.org/abs/2002.05202.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SparseMoE(nn.Module):
    """Each token visits its ``top_k`` best experts and, always, the shared expert.

    The router's probabilities are a softmax over all experts, taken in float32; those of the
    chosen experts are scaled to sum to 1.  The shared expert is weighted by a sigmoid of its own.
    """

    def __init__(
        self, hidden_size: int, intermediate_size: int, *, num_experts: int, top_k: int
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.experts = nn.ModuleList(
            SwiGLU(hidden_size, intermediate_size) for _ in range(num_experts)
        )
        self.shared_expert = SwiGLU(hidden_size, intermediate_size)
        self.shared_expert_gate = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``x [B, S, H]`` to ``y [B, S, H]`` and ``router_logits [B * S, E]``."""
        tokens = x.reshape(-1, x.shape[-1])

        router_logits = self.gate(tokens)
        router_probs = F.softmax(router_logits, dim=-1, dtype=torch.float32)
        topk_weights, topk_ids = torch.topk(router_probs, self.top_k, dim=-1)
        topk_weights = topk_weights / topk_weights.sum(dim=-1, keepdim=True)
        topk_weights = topk_weights.to(tokens.dtype)

        y = torch.zeros_like(tokens)
        for expert_id, expert in enumerate(self.experts):
            token, choice = torch.where(topk_ids == expert_id)
            weighted = expert(tokens[token]) * topk_weights[token, choice, None]
            y.index_add_(0, token, weighted)

        shared = torch.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)
        return (y + shared).view_as(x), router_logits
