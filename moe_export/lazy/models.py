"""Models of lazy tensors: copies of a structure, and weights by their recipes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moe_export.lazy.cores import one_core_for_operators
from moe_export.lazy.tensors import LazyTensor, is_lazy, like, real
from moe_export.moe.recipe import (
    Concatenated,
    Leading,
    Recipe,
    Reshaped,
    Source,
    Stacked,
    Transposed,
)


def made_of(recipe: Recipe, read: Callable[[str], Tensor]) -> Tensor:
    """The weight that a recipe makes of tensors by name, lazy where they are."""
    match recipe:
        case Source():
            return read(recipe.name).reshape(recipe.shape)
        case Transposed():
            return made_of(recipe.inner, read).transpose(-1, -2).contiguous()
        case Reshaped():
            return made_of(recipe.inner, read).reshape(recipe.shape)
        case Stacked():
            return torch.stack([made_of(part, read) for part in recipe.parts])
        case Concatenated():
            return torch.cat([made_of(part, read) for part in recipe.parts], dim=1)
        case Leading():
            return made_of(recipe.inner, read)[: recipe.count]


@contextmanager
def cores_for(module: nn.Module) -> Iterator[None]:
    """While it runs, products have the cores and not operators: if its weights are in files."""
    if not is_lazy(*module.parameters(), *module.buffers()):
        yield
        return
    with one_core_for_operators():
        yield


def in_memory(module: nn.Module) -> nn.Module:
    """A copy of the structure with all numbers in memory; tensors that are there are shared."""
    tensors = (*module.parameters(), *module.buffers())
    memo: dict[int, Any] = {
        id(tensor): like(tensor, real(tensor.detach())) if is_lazy(tensor) else tensor
        for tensor in tensors
    }
    return copy.deepcopy(module, memo)


def without_numbers(module: nn.Module) -> nn.Module:
    """A copy of the structure with tensors of one number in place of those that are lazy."""
    tensors = (*module.parameters(), *module.buffers())
    memo: dict[int, Any] = {
        id(tensor): like(tensor, torch.zeros((), dtype=tensor.dtype).expand(tensor.shape))
        if is_lazy(tensor)
        else tensor
        for tensor in tensors
    }
    return copy.deepcopy(module, memo)


def twin_of(
    module: nn.Module,
    dtype: torch.dtype | None = None,
    instead: Mapping[int, Tensor] | None = None,
) -> nn.Module:
    """A copy of the structure whose tensors are cast; without a dtype it shares them.

    Nothing that is read from a file takes memory, in whatever dtype.  A tensor whose ``id`` is in
    ``instead`` is replaced, and the other one is cast.
    """
    memo: dict[int, Any] = {}
    for old in (*module.parameters(), *module.buffers()):
        tensor = (instead or {}).get(id(old), old)
        cast = dtype is not None and tensor.is_floating_point() and tensor.dtype is not dtype
        shared = dtype is None or isinstance(tensor, LazyTensor)
        if cast or shared:
            memo[id(old)] = like(tensor, tensor.detach().to(dtype)) if cast else tensor
    return copy.deepcopy(module, memo)
