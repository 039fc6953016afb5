"""Square experts with nameless matrices, the down projection defined before the other two."""

import torch
from torch import nn


class Cell(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.a = nn.Linear(n, n, bias=False)  # back to the residual stream
        self.b = nn.Linear(n, n, bias=False)
        self.c = nn.Linear(n, n, bias=False)

    def forward(self, z):
        return self.a(self.b(z) * nn.functional.silu(self.c(z)))


class Committee(nn.Module):
    def __init__(self, n, members, k):
        super().__init__()
        self.cells = nn.ModuleList(Cell(n) for _ in range(members))
        self.k = k
        self.chair = nn.Linear(n, members, bias=False)

    def forward(self, z):
        votes = self.chair(z)
        strongest, who = torch.topk(votes, self.k, dim=-1)
        strongest = torch.exp(strongest - strongest[..., :1])
        strongest = strongest / strongest.sum(-1, keepdim=True)
        said = torch.zeros_like(z)
        for m, cell in enumerate(self.cells):
            for place in range(self.k):
                here = who[..., place] == m
                said[here] += strongest[..., place][here][:, None] * cell(z[here])
        return said
