"""Rotations in complex numbers are the same in real ones."""

from __future__ import annotations

import torch
from torch import nn

from moe_export.load.pretrained.rotations import Pairs, in_real_numbers, keep_real


def rotated(x, angles):
    turns = torch.polar(torch.ones_like(angles), angles) * 0.5
    numbers = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(numbers * turns[:, :, None, :].to(x.device)).flatten(3)


def example():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 3, 8, generator=generator, dtype=torch.float64)
    return x, torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)


def test_the_same_numbers_come_out():
    x, angles = example()
    expected = rotated(x, angles)
    with in_real_numbers():
        made = rotated(x, angles)
    # Four products and sums of numbers below 5.
    assert (made - expected).abs().max() <= 16 * torch.finfo(torch.float64).eps * 5


def test_nothing_complex_is_made():
    _, angles = example()
    with in_real_numbers():
        made = torch.polar(torch.ones_like(angles), angles)
    assert isinstance(made, Pairs)
    assert not made.real.is_complex()
    assert (made.shape, made.ndim) == (angles.shape, 3)
    assert made.unsqueeze(-1).shape == (2, 5, 4, 1)
    assert made.view(2, 20).shape == (2, 20)


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.turns = nn.Buffer(torch.polar(torch.ones(3), torch.arange(3.0)), persistent=False)

    def forward(self, x):
        return torch.view_as_real(torch.view_as_complex(x) * self.turns)


def test_a_table_of_complex_numbers_survives_a_cast():
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    table = Table()
    expected = table(x)
    keep_real(table)
    with in_real_numbers():
        made = table.double()(x.double())
    assert made.dtype == torch.float64
    assert (made - expected).abs().max() <= 1e-6
