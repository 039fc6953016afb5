"""Dense softmax mixture of linear experts kept in one stacked parameter, in one einsum."""

import torch
from torch import nn


class SoftMixture(nn.Module):
    def __init__(self, n_experts: int, d: int):
        super().__init__()
        self.theta = nn.Parameter(torch.randn(n_experts, d, d) / d**0.5)
        self.phi = nn.Parameter(torch.randn(d, n_experts) / d**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = (x @ self.phi).softmax(-1)
        return torch.einsum("...d,edo,...e->...o", x, self.theta, p)
