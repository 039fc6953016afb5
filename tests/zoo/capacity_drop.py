"""Look-alike: each expert takes a bounded number of tokens, and later tokens are dropped."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class CapacityMoE(nn.Module):
    def __init__(self, d_model, d_ff, num_experts, capacity_factor=1.0):
        super().__init__()
        self.num_experts = num_experts
        self.capacity_factor = capacity_factor
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.wi = nn.Parameter(torch.randn(num_experts, d_model, d_ff))
        self.wo = nn.Parameter(torch.randn(num_experts, d_ff, d_model))

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        capacity = math.ceil(tokens.shape[0] / self.num_experts * self.capacity_factor)
        probs = F.softmax(self.router(tokens), dim=-1)
        gate, index = probs.max(dim=-1)

        assigned = F.one_hot(index, self.num_experts)
        position = assigned.cumsum(dim=0) * assigned  # 1-based place in the expert's queue
        kept = (position * (position <= capacity)).to(torch.long)
        slot = F.one_hot((kept.sum(-1) - 1).clamp(min=0), capacity)
        dispatch = ((kept > 0)[..., None] & (slot[:, None] > 0)).to(tokens.dtype)  # [T, E, C]

        expert_in = torch.einsum("tec,tm->ecm", dispatch, tokens)
        hidden = F.relu(torch.einsum("ecm,emf->ecf", expert_in, self.wi))
        expert_out = torch.einsum("ecf,efm->ecm", hidden, self.wo)
        y = torch.einsum("tec,ecm->tm", dispatch * gate[:, None, None], expert_out)
        return y.reshape(x.shape)
