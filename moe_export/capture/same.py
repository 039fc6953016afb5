"""Which layers of a model are the same code, and what each finds in objects that all are handed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from itertools import chain
from typing import Any

from torch import SymInt, Tensor, fx, nn

# What every module has, and what differs between any two.
_OWN = frozenset(vars(nn.Module()))

# Of objects within objects, to which values are compared.
_DEEPEST = 6

_PLAIN = (bool, int, float, str, SymInt, type(None))


@dataclass(frozen=True, eq=False)
class Group:
    """Children of one list that differ in nothing but numbers, their place and their names."""


@dataclass(frozen=True)
class Child:
    """A child of a ``ModuleList``, by its path and its number there."""

    path: str
    number: int
    module: nn.Module
    group: Group


@dataclass(frozen=True)
class Slot:
    """A tensor or a plain value in an object, in the place of one layer."""

    words: tuple[str, ...]
    """The way there, in which the layer's number is a star."""

    value: Any
    put: Callable[[Any], None]


def groups_of(module: nn.Module) -> Iterator[list[Child]]:
    """Children of the outermost lists, two and more that are alike together."""
    lists: list[str] = []
    for path, each in module.named_modules():
        if isinstance(each, nn.ModuleList) and not any(path.startswith(f"{p}.") for p in lists):
            lists.append(path)
            groups: list[list[Child]] = []
            for number, child in enumerate(each):
                name = f"{path}.{number}"
                like = next((g for g in groups if _is_alike(g[0], child, name, number)), None)
                if like is None:
                    groups.append([Child(name, number, child, Group())])
                else:
                    like.append(Child(name, number, child, like[0].group))
            yield from (group for group in groups if len(group) > 1)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those of several names under each."""
    return dict(
        chain(
            module.named_parameters(remove_duplicate=False),
            module.named_buffers(remove_duplicate=False),
        )
    )


def slots_of(value: Any, number: int) -> Iterator[Slot]:
    """What an object that is neither tensor nor module holds for the layer of a number."""
    if not isinstance(value, (*_PLAIN, Tensor)) and _is_plain_object(value):
        yield from _slots(vars(value), number, (), {id(value)})


def _slots(
    holder: dict[str, Any], number: int, words: tuple[str, ...], seen: set[int]
) -> Iterator[Slot]:
    for key, value in list(holder.items()):
        yield from _slot(holder, key, value, number, (*words, key), seen)


def _slot(
    holder: Any, key: Any, value: Any, number: int, words: tuple[str, ...], seen: set[int]
) -> Iterator[Slot]:
    if isinstance(value, (*_PLAIN, Tensor)):
        yield Slot(words, value, lambda new: holder.__setitem__(key, new))
    elif isinstance(value, list):
        if number < len(value):
            yield from _slot(value, number, value[number], number, (*words, "*"), seen)
    elif type(value) is dict:
        yield from _slots(value, number, words, seen)
    elif _is_plain_object(value) and id(value) not in seen:
        yield from _slots(vars(value), number, words, seen | {id(value)})


def _is_plain_object(value: Any) -> bool:
    """Whether it is neither a module nor code, and has attributes."""
    return hasattr(value, "__dict__") and not isinstance(value, nn.Module) and not callable(value)


def _is_alike(one: Child, other: nn.Module, path: str, number: int) -> bool:
    """Whether the code that ``other`` runs is that of ``one``."""
    forms = [
        [(name, each.dtype, each.shape) for name, each in tensors_of(module).items()]
        for module in (one.module, other)
    ]
    pairs = list(zip(one.module.named_modules(), other.named_modules(), strict=False))
    if forms[0] != forms[1] or len(list(one.module.modules())) != len(list(other.modules())):
        return False
    same = _Same(one, path, number)
    return all(a == b and same.modules(left, right) for (a, left), (b, right) in pairs)


@dataclass(frozen=True)
class _Same:
    """Values that are equal but for the number and the path of the layer that holds them."""

    one: Child
    path: str
    number: int

    def modules(self, left: nn.Module, right: nn.Module) -> bool:
        """Of what they are, without their tensors and children."""
        if isinstance(left, fx.GraphModule) and isinstance(right, fx.GraphModule):
            return bool(left.code == right.code)
        return type(left) is type(right) and self._all(_attributes(left), _attributes(right), 0)

    def _all(self, left: Mapping[str, Any], right: Mapping[str, Any], depth: int) -> bool:
        return left.keys() == right.keys() and all(
            self._values(left[key], right[key], depth) for key in left
        )

    def _values(self, left: Any, right: Any, depth: int) -> bool:
        if left is right:
            return True
        if type(left) is not type(right) or isinstance(left, Tensor) or depth > _DEEPEST:
            return False
        if type(left) is int and (left, right) == (self.one.number, self.number):
            return True
        if isinstance(left, str) and left.startswith(self.one.path):
            return bool(right == self.path + left.removeprefix(self.one.path))
        if isinstance(left, list | tuple):
            pairs = zip(left, right, strict=False)
            return len(left) == len(right) and all(self._values(a, b, depth + 1) for a, b in pairs)
        if isinstance(left, dict):
            return self._all(left, right, depth + 1)
        if isinstance(left, partial):
            one, other = ((each.func, each.args, each.keywords) for each in (left, right))
            return self._values(one, other, depth)
        if isinstance(left, _PLAIN) or is_dataclass(left):
            return bool(left == right)
        if hasattr(left, "__dict__") and not callable(left):
            return self._all(vars(left), vars(right), depth + 1)
        return bool(left == right)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OWN}
