"""Stacked experts run densely by bmm, gate and up fused in ``[E, 2I, H]``, scores scattered."""

import torch
from torch import nn


class BatchedExpertsMoE(nn.Module):
    def __init__(self, hidden_size: int, ffn_size: int, num_experts: int, topk: int):
        super().__init__()
        self.topk = topk
        self.num_experts = num_experts
        self.router = nn.Linear(hidden_size, num_experts, bias=False)
        self.gate_up = nn.Parameter(torch.randn(num_experts, 2 * ffn_size, hidden_size) * 0.02)
        self.down = nn.Parameter(torch.randn(num_experts, hidden_size, ffn_size) * 0.02)

    def _ffn(self, tokens: torch.Tensor) -> torch.Tensor:
        """[T, H] -> [E, T, H]: every expert on every token."""
        batch = tokens.unsqueeze(0).expand(self.num_experts, -1, -1)
        gate, up = torch.bmm(batch, self.gate_up.transpose(1, 2)).chunk(2, dim=-1)
        return torch.bmm(torch.nn.functional.silu(gate) * up, self.down.mT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.view(-1, x.shape[-1])
        probs = self.router(tokens).softmax(-1)
        values, indices = probs.topk(self.topk, dim=-1)
        values = values / values.sum(-1, keepdim=True)
        dense = torch.zeros_like(probs).scatter(1, indices, values)  # [T, E], zero if not chosen
        y = (self._ffn(tokens) * dense.t().unsqueeze(-1)).sum(0)
        return y.view(x.shape)
