"""Renormalisation with a small epsilon in the denominator, experts indexed token-slot-wise."""

import torch
import torch.nn.functional as F
from torch import nn


class GatedMLP(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.fc_gate = nn.Linear(hidden, inner, bias=False)
        self.fc_value = nn.Linear(hidden, inner, bias=False)
        self.fc_out = nn.Linear(inner, hidden, bias=False)

    def forward(self, h):
        return self.fc_out(F.gelu(self.fc_gate(h)) * self.fc_value(h))


class EpsMoE(nn.Module):
    EPS = 1e-6

    def __init__(self, hidden, inner, experts, k):
        super().__init__()
        self.k = k
        self.route = nn.Linear(hidden, experts, bias=False)
        self.experts = nn.ModuleList(GatedMLP(hidden, inner) for _ in range(experts))

    def forward(self, h):
        flat = h.reshape(-1, h.shape[-1])
        probs = F.softmax(self.route(flat), dim=-1)
        w, ids = torch.topk(probs, self.k, dim=-1)
        w = w / (w.sum(dim=-1, keepdim=True) + self.EPS)

        out = torch.zeros_like(flat)
        for slot in range(self.k):
            slot_ids, slot_w = ids[:, slot], w[:, slot : slot + 1]
            for e, expert in enumerate(self.experts):
                (rows,) = torch.where(slot_ids == e)
                out[rows] += slot_w[rows] * expert(flat[rows])
        return out.view_as(h)
