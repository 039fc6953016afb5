"""Tie every initializer of a graph to the source tensors it is made of, without reading bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from moe_export.forms import MarkedModel, Weight
from moe_export.lazy import is_lazy, made_of, real
from moe_export.moe.recipe import Recipe

Array = npt.NDArray[Any]


def take_weights(graph: ir.Model, model: MarkedModel) -> dict[str, Weight]:
    """The graph's weights by name; their bytes leave the graph, equal tensors become one.

    Each is named as the source model names it, or ``<block>.<role>`` where several source tensors
    make one.  Small constants of the tracer stay in the graph.
    """
    source = source_tensors(model.loaded.module)
    names_of = _names_by_identity(source)
    marked = source_tensors(model.marked)
    weights: dict[str, Weight] = {}
    kept: dict[str, ir.Value] = {}
    for value in list(graph.graph.initializers.values()):
        traced = str(value.name)
        if traced not in marked:
            continue  # a constant of the code
        if traced in model.recipes:
            name, weight = traced, _from_recipe(model.recipes[traced], source)
        else:
            names = names_of[id(marked[traced])]
            name, weight = names[0], _from_tensor(names, marked[traced])
        if name in kept:
            value.replace_all_uses_with(kept[name])
            del graph.graph.initializers[traced]
            continue
        value.const_value = None
        value.name = name
        kept[name] = value
        weights[name] = weight
    return weights


def source_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by each of its names, tied tensors under all of them."""
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors.update(module.named_buffers(remove_duplicate=False))
    return tensors


def numpy_of(tensor: Tensor) -> Array:
    """The tensor's numbers as NumPy sees them, without a copy where it can."""
    tensor = real(tensor.detach()).contiguous()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: Array = tensor.numpy()
    return array


def _names_by_identity(tensors: Mapping[str, Tensor]) -> dict[int, tuple[str, ...]]:
    names: dict[int, tuple[str, ...]] = {}
    for name, tensor in tensors.items():
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    return names


def _from_recipe(recipe: Recipe, source: Mapping[str, Tensor]) -> Weight:
    # Names alone would do within one part of a model; the parts share their tensors.
    origin = (recipe, tuple(id(source[name]) for name in recipe.sources()))
    if is_lazy(*(source[name] for name in recipe.sources())):
        made = _from_tensor(recipe.sources(), made_of(recipe, source.__getitem__))
        return replace(made, origin=origin)

    def read() -> Array:
        return recipe.build(lambda name: numpy_of(source[name]))

    return Weight(
        shape=recipe.shape,
        dtype=recipe.dtype,
        sources=recipe.sources(),
        read=read,
        origin=origin,
    )


def _from_tensor(names: tuple[str, ...], tensor: Tensor) -> Weight:
    def rows(start: int, stop: int) -> Array:
        return numpy_of(tensor[start:stop])

    return Weight(
        shape=tuple(tensor.shape),
        dtype=numpy_of(torch.empty(0, dtype=tensor.dtype)).dtype,
        sources=names,
        read=lambda: numpy_of(tensor),
        rows=rows if is_lazy(tensor) and tensor.dim() else None,
        origin=("tensor", id(tensor)),  # which ``read`` keeps
    )
