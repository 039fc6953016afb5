"""GShard-style one-hot dispatch and combine by einsum, without a capacity."""

import torch
import torch.nn.functional as F
from torch import nn


class EinsumMoE(nn.Module):
    # T tokens, K choices, E experts, M model dim, F feed-forward dim
    def __init__(self, m: int, f: int, e: int, k: int):
        super().__init__()
        self.k = k
        self.e = e
        self.wg = nn.Parameter(torch.empty(m, e))
        self.wi = nn.Parameter(torch.empty(e, m, f))
        self.wo = nn.Parameter(torch.empty(e, f, m))
        for w in self.parameters():
            nn.init.xavier_normal_(w)

    def forward(self, x):
        *lead, m = x.shape
        x = x.reshape(-1, m)
        gates = torch.softmax(torch.einsum("TM,ME->TE", x, self.wg), dim=-1)
        top_gates, top_idx = gates.topk(self.k)
        top_gates = top_gates / top_gates.sum(-1, keepdim=True)

        mask = F.one_hot(top_idx, self.e).to(x.dtype)  # [T, K, E]
        combine = torch.einsum("TK,TKE->TE", top_gates, mask)
        dispatch = mask.sum(1)

        expert_in = torch.einsum("TE,TM->ETM", dispatch, x)
        hidden = F.gelu(torch.einsum("ETM,EMF->ETF", expert_in, self.wi))
        expert_out = torch.einsum("ETF,EFM->ETM", hidden, self.wo)
        return torch.einsum("TE,ETM->TM", combine, expert_out).reshape(*lead, m)
