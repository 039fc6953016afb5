"""Blocks of the same code: what is proven of one holds for the others, whatever their weights.

A proof compares code, on several sets of parameters.  Two blocks whose classes, structure and
attributes are equal run the same code; they differ in numbers, and a narrower twin also in the
length of some rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from moe_export.moe.recipe import Recipe, Reshaped, Source
from moe_export.rewrite.groups import named_source
from moe_export.rewrite.proposal import Leaf, Proposal, Rows
from moe_export.rewrite.rows import RowProgram

# What every module has, and what differs between any two.
_OWN = frozenset(vars(nn.Module()))


def alike(block: nn.Module, other: nn.Module) -> bool:
    """Whether two blocks differ in nothing but the numbers in their tensors."""
    return _facts(block) == _facts(other) and _same_attributes(block, other)


def reads_all(proposal: Proposal, block: nn.Module) -> bool:
    """Whether every tensor of the block is in the proposal.

    One that is not may have been left out for its value, zeros that are added, say; another block
    has other values.
    """
    names = {name for recipe in proposal.weights.values() for name in recipe.sources()}
    for program in _programs(proposal):
        names.update(program.reads() if isinstance(program, RowProgram) else ())
    return {id(tensor) for _, tensor in _tensors(block)} <= {
        id(tensor) for name, tensor in _tensors(block) if name in names
    }


def widened(proposal: Proposal, narrow: nn.Module, block: nn.Module) -> Proposal | None:
    """A proposal about ``narrow`` as one about ``block``, whose experts have more rows.

    ``None`` where a length that differs is written in it, or where they differ in more.
    """
    if [type(m) for m in narrow.modules()] != [type(m) for m in block.modules()]:
        return None
    before, after = dict(_tensors(narrow)), dict(_tensors(block))
    if before.keys() != after.keys():
        return None
    shapes = {
        name: (tuple(before[name].shape), tuple(after[name].shape))
        for name in before
        if before[name].shape != after[name].shape
    }
    if any(len(small) != len(large) for small, large in shapes.values()):
        return None
    lengths = {
        small
        for pair in shapes.values()
        for small, large in zip(*pair, strict=True)
        if small != large
    }
    if any(_says(program, lengths) for program in _programs(proposal)):
        return None
    recipes = {}
    for role, recipe in proposal.weights.items():
        if _keeps_shape_of(recipe, shapes):
            return None
        recipes[role] = recipe.map(lambda source: named_source(block, source.name))
    size = recipes["down"].shape[-1]
    experts = replace(proposal.layer.experts, intermediate_size=size)
    return replace(proposal, layer=replace(proposal.layer, experts=experts), weights=recipes)


def _facts(block: nn.Module) -> list[Any]:
    modules = [(path, type(module)) for path, module in block.named_modules()]
    tensors = [(name, tuple(t.shape), t.dtype) for name, t in _tensors(block)]
    return [modules, tensors]


def _tensors(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(
        block.named_parameters(remove_duplicate=False), block.named_buffers(remove_duplicate=False)
    )


def _same_attributes(block: nn.Module, other: nn.Module) -> bool:
    pairs = zip(block.modules(), other.modules(), strict=True)
    return all(_same_values(_attributes(one), _attributes(two)) for one, two in pairs)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OWN}


def _same_values(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) or type(one) is not type(other):
        return False
    return one == other if isinstance(one, (bool, int, float, str, tuple, list)) else False


def _programs(proposal: Proposal) -> Iterator[Rows]:
    beside = (proposal.logits, proposal.kept, proposal.hidden, *proposal.shared, proposal.after)
    own = (*beside, proposal.middle, proposal.behind)
    returned = (leaf.rows for leaf in tree_leaves(proposal.output) if isinstance(leaf, Leaf))
    yield from (rows for rows in (*own, *returned) if rows is not None)


def _says(program: Rows, lengths: set[int]) -> bool:
    """Whether one of the lengths, or what one may be a part of, is an argument of an operator."""
    if not isinstance(program, RowProgram):
        return True  # the user's own code, which may say anything
    arguments = [(node.args, node.kwargs) for node in program.graph.nodes]
    return any(
        type(leaf) is int and leaf > 1 and any(leaf % n == 0 or n % leaf == 0 for n in lengths)
        for leaf in tree_leaves(arguments)
    )


def _keeps_shape_of(recipe: Recipe, shapes: Mapping[str, Any]) -> bool:
    """Whether a shape is written in the recipe that another length would change."""
    if isinstance(recipe, Source):
        return False
    if isinstance(recipe, Reshaped):
        return any(name in shapes for name in recipe.sources())
    parts = getattr(recipe, "parts", None) or (recipe.inner,)  # type: ignore[union-attr]
    return any(_keeps_shape_of(part, shapes) for part in parts)
