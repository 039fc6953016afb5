"""Returns ``(y, aux_loss)``: the load-balancing loss is computed in eval as in training."""

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    def __init__(self, n_embd, n_inner, bias):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, n_inner, bias=bias)
        self.c_proj = nn.Linear(n_inner, n_embd, bias=bias)
        self.gelu = nn.GELU(approximate="tanh")

    def forward(self, x):
        return self.c_proj(self.gelu(self.c_fc(x)))


class MoELayer(nn.Module):
    def __init__(self, n_embd, n_inner, n_exp, top_k, aux_weight=0.01):
        super().__init__()
        self.n_exp, self.top_k, self.aux_weight = n_exp, top_k, aux_weight
        self.w_g = nn.Linear(n_embd, n_exp, bias=False)
        self.mlps = nn.ModuleList([MLP(n_embd, n_inner, bias=True) for _ in range(n_exp)])

    def balance_loss(self, probs, ids):
        """Fraction of tokens times mean probability, per expert (Switch, eq. 4)."""
        fraction = F.one_hot(ids, self.n_exp).to(probs.dtype).sum(1).mean(0)
        return self.n_exp * torch.sum(fraction * probs.mean(0))

    def forward(self, x):
        b, t, c = x.size()
        x = x.view(b * t, c)
        probs = F.softmax(self.w_g(x), dim=-1)
        p, ids = torch.topk(probs, self.top_k)
        p = p / p.sum(-1, keepdim=True)
        aux_loss = self.aux_weight * self.balance_loss(probs, ids)

        y = torch.zeros_like(x)
        for i, mlp in enumerate(self.mlps):
            batch_idx, nth = torch.where(ids == i)
            y[batch_idx] += p[batch_idx, nth, None] * mlp(x[batch_idx])
        return y.view(b, t, c), aux_loss
