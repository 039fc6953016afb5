"""Grouped dispatch: sort assignments by expert, split, run each expert on its run, unsort."""

import torch
import torch.nn.functional as F
from torch import nn


class ExpertMLP(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class GroupedMoE(nn.Module):
    def __init__(self, dim, inner, n_experts, k, scale):
        super().__init__()
        self.gate = nn.Linear(dim, n_experts, bias=False)
        self.experts = nn.ModuleList(ExpertMLP(dim, inner) for _ in range(n_experts))
        self.k, self.scale = k, scale

    def forward(self, hidden_states):
        shape = hidden_states.shape
        x = hidden_states.reshape(-1, shape[-1])
        topk_weight, topk_ids = self.gate(x).softmax(-1).topk(self.k, dim=-1)
        return self.moe_infer(x, topk_ids, topk_weight * self.scale).reshape(shape)

    def moe_infer(self, x, topk_ids, topk_weight):
        flat_ids = topk_ids.view(-1)
        idxs = flat_ids.argsort()
        sorted_tokens = x[idxs // self.k]
        tokens_per_expert = torch.bincount(flat_ids, minlength=len(self.experts)).tolist()

        outputs = []
        for expert, run in zip(self.experts, sorted_tokens.split(tokens_per_expert), strict=True):
            if run.shape[0]:
                outputs.append(expert(run))
        outs = torch.cat(outputs, dim=0) if outputs else sorted_tokens.new_empty(0)

        new_x = torch.empty_like(outs)
        new_x[idxs] = outs
        return (new_x.view(*topk_ids.shape, -1) * topk_weight.unsqueeze(dim=-1)).sum(dim=1)
