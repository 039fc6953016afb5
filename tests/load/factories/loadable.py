"""Factories that checkpoints in these tests name, each with one property that loading must keep."""

import torch
from torch import nn

from moe_export import model_factory


class Tied(nn.Module):
    """Two names for one parameter, a boolean buffer, a bfloat16 one and an empty one."""

    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.head = nn.Linear(width, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("allowed", torch.arange(10) % 3 > 0)
        self.register_buffer("ramp", torch.linspace(0, 1, 5).bfloat16())
        self.register_buffer("nothing", torch.empty(0, 3))

    def forward(self, ids, scale=None, *, bias=None):
        logits = self.head(self.embed(ids)).masked_fill(~self.allowed, 0.0)
        logits = logits if scale is None else logits * scale
        return logits if bias is None else logits + bias


class Untied(Tied):
    def __init__(self, width):
        super().__init__(width)
        self.head.weight = nn.Parameter(self.embed.weight.detach().clone())


class NonPersistent(nn.Module):
    """A buffer that no state dict holds."""

    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.register_buffer("phase", torch.arange(width) / 7, persistent=False)

    def forward(self, x):
        return self.proj(x) + self.phase


class Attribute(nn.Module):
    """Tensors that are neither parameters nor buffers, one of them inside a container."""

    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.shift = torch.full((width,), 0.25)
        self.table = {"rows": [torch.arange(width) / 3]}

    def forward(self, x):
        return self.proj(x) + self.shift + self.table["rows"][0]


class NeedsValues(nn.Module):
    """Reads a tensor's value while it is built, which the meta device cannot give."""

    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.rate = torch.linspace(0, 1, 3)[1].item()

    def forward(self, x):
        return self.proj(x) * self.rate


class Plain(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.proj(x))


@model_factory
def tied(width):
    return Tied(width)


@model_factory()
def non_persistent(width):
    return NonPersistent(width)


@model_factory
def attribute(width):
    return Attribute(width)


@model_factory
def needs_values(width):
    return NeedsValues(width)


@model_factory
def plain(width):
    return Plain(width)


@model_factory
def untied(width):
    return Untied(width)


@model_factory
def not_a_module(width):
    return {"width": width}


def unmarked(width):
    return Plain(width)
