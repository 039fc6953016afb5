"""DBRX-style storage: the rows of all experts in one flat ``[E * I, H]`` parameter per matrix."""

import torch
import torch.nn.functional as F
from torch import nn


class ExpertGLU(nn.Module):
    def __init__(self, hidden_size, ffn_hidden_size, moe_num_experts):
        super().__init__()
        self.shape = (moe_num_experts, ffn_hidden_size, hidden_size)
        self.w1 = nn.Parameter(torch.empty(moe_num_experts * ffn_hidden_size, hidden_size))
        self.v1 = nn.Parameter(torch.empty(moe_num_experts * ffn_hidden_size, hidden_size))
        self.w2 = nn.Parameter(torch.empty(moe_num_experts * ffn_hidden_size, hidden_size))

    def forward(self, x, expert_idx):
        w1, v1, w2 = (w.view(self.shape)[expert_idx] for w in (self.w1, self.v1, self.w2))
        return (F.silu(x @ w1.t()) * (x @ v1.t())) @ w2


class FlatFFN(nn.Module):
    def __init__(self, hidden_size, ffn_hidden_size, moe_num_experts, moe_top_k):
        super().__init__()
        self.moe_num_experts, self.moe_top_k = moe_num_experts, moe_top_k
        self.router = nn.Linear(hidden_size, moe_num_experts, bias=False)
        self.mlp = ExpertGLU(hidden_size, ffn_hidden_size, moe_num_experts)

    def forward(self, x):
        bsz, q_len, hidden_size = x.shape
        x = x.view(-1, hidden_size)
        weights = self.router(x).softmax(dim=-1)
        top_weights, top_experts = torch.topk(weights, self.moe_top_k, dim=-1)
        top_weights = top_weights / torch.norm(top_weights, p=1, dim=-1, keepdim=True)
        out = torch.zeros_like(x)
        for expert_idx in range(self.moe_num_experts):
            token_idx, topk_idx = torch.where(top_experts == expert_idx)
            expert_out = self.mlp(x[token_idx], expert_idx) * top_weights[token_idx, topk_idx, None]
            out.index_add_(0, token_idx, expert_out)
        return out.reshape(bsz, q_len, hidden_size), weights
