"""Hard arg-max: each token passes through one expert, whose output is taken as it is."""

import torch
from torch import nn


class Expert(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class HardMoE(nn.Module):
    """Routes hard; meant to be trained with an outer REINFORCE loss."""

    def __init__(self, dim, hidden, n):
        super().__init__()
        self.n = n
        self.switch = nn.Linear(dim, n)
        for i in range(n):
            self.add_module(f"expert{i}", Expert(dim, hidden))

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        choice = torch.argmax(self.switch(x), dim=1)
        out = x.new_zeros(x.shape)
        for i in range(self.n):
            rows = torch.nonzero(choice == i).squeeze(1)
            out[rows] = getattr(self, f"expert{i}")(x[rows])
        return out.reshape(shape)
