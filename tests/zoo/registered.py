"""Two MoE blocks that only their author can name: product keys, and a static hash of the input."""

import torch
from torch import nn


class ProductKeyMoE(nn.Module):
    """Expert ``i * n + j`` is found by two half queries against two tables of n keys."""

    def __init__(self, dim, inner, n_keys, k):
        super().__init__()
        self.n_keys, self.k = n_keys, k
        self.query = nn.Linear(dim, dim, bias=False)
        self.keys = nn.Parameter(torch.randn(2, n_keys, dim // 2))
        self.inward = nn.Embedding(n_keys * n_keys, inner * dim)
        self.outward = nn.Embedding(n_keys * n_keys, dim * inner)

    def forward(self, x):
        left, right = self.query(x).chunk(2, dim=-1)
        s1, i1 = (left @ self.keys[0].t()).topk(self.k, dim=-1)
        s2, i2 = (right @ self.keys[1].t()).topk(self.k, dim=-1)
        # the k best sums lie among the k x k sums of the best halves
        sums = (s1.unsqueeze(-1) + s2.unsqueeze(-2)).flatten(-2)
        ids = (i1.unsqueeze(-1) * self.n_keys + i2.unsqueeze(-2)).flatten(-2)
        best, at = sums.topk(self.k, dim=-1)
        ids = ids.gather(-1, at)
        up = self.inward(ids).unflatten(-1, (-1, x.shape[-1]))  # [..., K, I, H]
        down = self.outward(ids).unflatten(-1, (x.shape[-1], -1))  # [..., K, H, I]
        h = torch.relu(torch.einsum("...h,...kih->...ki", x, up))
        return torch.einsum("...ki,...khi,...k->...h", h, down, best.softmax(-1))


class HashLayerMoE(nn.Module):
    """Routes by a fixed table on the position of the token's largest feature; nothing to learn."""

    def __init__(self, dim, inner, n_experts):
        super().__init__()
        self.register_buffer("table", (torch.arange(dim) * 2654435761 >> 7) % n_experts)
        self._mangled = []
        for i in range(n_experts):
            a, b = f"h{i * 40503 % 9973:04x}", f"h{i * 40503 % 9973 + 16384:04x}"
            self.register_buffer(a, torch.randn(inner, dim) / dim**0.5)
            self.register_buffer(b, torch.randn(dim, inner) / inner**0.5)
            self._mangled.append((a, b))

    def forward(self, x):
        ids = self.table[x.argmax(dim=-1)]
        y = torch.zeros_like(x)
        for e, (a, b) in enumerate(self._mangled):
            rows = ids == e
            h = nn.functional.silu(x[rows] @ getattr(self, a).t())
            y[rows] = h @ getattr(self, b).t()
        return y
