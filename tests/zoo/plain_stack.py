"""Look-alike: equal layers one after the other and a head with as many outputs; no MoE at all."""

from torch import nn


class PlainStack(nn.Module):
    def __init__(self, dim, inner, depth):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))
            for _ in range(depth)
        )
        self.gate = nn.Linear(dim, depth)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return self.gate(x).softmax(dim=-1)
