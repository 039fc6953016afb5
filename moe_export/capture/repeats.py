"""Layers of one form are traced and translated once: the others become copies of what came of it.

While a model is traced, ``once_each`` lets the first of equal children of a ``ModuleList`` run
between borders; each other becomes one operator for each tensor that it gives, on the tensors that
it takes: its arguments, its place in a cache, its parameters.  ``unfold`` makes copies of what lies
between the borders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from moe_export.capture.same import Child, Slot, groups_of, slots_of, tensors_of
from moe_export.moe.schema import DOMAIN

PROBE, BORDER, REPEAT = "Probe", "Border", "Repeat"


@dataclass(frozen=True)
class Repeat:
    """A layer that is a copy of another: its number, and the paths of both in the model."""

    number: int
    original: int
    path: str
    path_of_original: str

    def renamed(self, name: str) -> str:
        """A probe's name in the original as it is in the copy."""
        return self.path + name.removeprefix(self.path_of_original)


@contextmanager
def once_each(module: nn.Module) -> Iterator[list[Repeat]]:
    """While ``module`` is traced: the copies that were made, as they are made."""
    _FORMS.clear()
    tracing = _Tracing()
    children = [child for group in groups_of(module) for child in group]
    for child in children:
        child.module.forward = tracing.instead_of(child)
    try:
        yield tracing.repeats
    finally:
        for child in children:
            del child.module.forward


@dataclass
class _Call:
    """What one call of a child takes."""

    child: Child
    leaves: list[Any]
    tree: TreeSpec
    slots: list[Slot]
    """What it finds in its place of a cache, or of what else it is handed."""

    tensors: list[Tensor]
    """Of its arguments, its slots and its own, each once."""

    form: tuple[object, ...]
    """Equal for calls that differ in nothing but the numbers of these."""


@dataclass(frozen=True)
class _Known:
    """What a call made: tensors, which are counted, and else values."""

    number: int
    path: str
    tree: TreeSpec
    leaves: list[_Tensor | Any]
    slots: dict[tuple[str, ...], _Tensor | Any]
    """Those that it changed."""


@dataclass(frozen=True)
class _Tensor:
    place: int


class _Tracing:
    """The calls of children so far."""

    def __init__(self) -> None:
        self.repeats: list[Repeat] = []
        self._known: dict[tuple[object, ...], _Known] = {}
        self._calls = 0
        self._is_inside = False

    def instead_of(self, child: Child) -> Callable[..., Any]:
        """What runs instead of the child's ``forward``."""
        forward = child.module.forward

        @wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return forward(*args, **kwargs)
            call = _call(child, args, kwargs)
            self._calls += 1
            known = self._known.get(call.form)
            if known is not None:
                return self._repeated(call, known)
            self._is_inside = True
            try:
                self._known[call.form], made = _between_borders(call, forward, self._calls)
            finally:
                self._is_inside = False
            return made

        return run

    def _repeated(self, call: _Call, known: _Known) -> Any:
        number, path = self._calls, call.child.path
        self.repeats.append(Repeat(number, known.number, path, known.path))
        for (original, place), form in list(_FORMS.items()):
            if original == known.number:
                _FORMS[number, place] = form
        made: dict[int, Tensor] = {}

        def real(value: _Tensor | Any) -> Any:
            if not isinstance(value, _Tensor):
                return value
            if value.place not in made:
                made[value.place] = torch.ops.moe_export.repeat(call.tensors, number, value.place)
            return made[value.place]

        slots = {slot.words: slot for slot in call.slots}
        for words, value in known.slots.items():
            slots[words].put(real(value))
        return tree_unflatten([real(leaf) for leaf in known.leaves], known.tree)


def _call(child: Child, args: Any, kwargs: Any) -> _Call:
    leaves, tree = tree_flatten((args, kwargs), is_leaf=_is_no_container)
    slots = [slot for leaf in leaves for slot in slots_of(leaf, child.number)]
    given = [*leaves, *(slot.value for slot in slots), *tensors_of(child.module).values()]
    places: dict[int, int] = {}
    tensors: list[Tensor] = []
    words: list[object] = []
    for value in given:
        if not isinstance(value, Tensor):
            words.append(_word(value))
            continue
        if id(value) not in places:
            places[id(value)] = len(tensors)
            tensors.append(value)
        words.append((places[id(value)], value.dtype, tuple(map(str, value.shape))))
    form = (id(child.group), str(tree), tuple(slot.words for slot in slots), tuple(words))
    return _Call(child, leaves, tree, slots, tensors, form)


def _is_no_container(value: Any) -> bool:
    return type(value) not in (list, tuple, dict)


def _word(value: Any) -> object:
    plain = value is None or isinstance(value, bool | int | float | str | torch.SymInt)
    return repr(value) if plain else id(value)


def _between_borders(call: _Call, forward: Callable[..., Any], number: int) -> tuple[_Known, Any]:
    """Run a child on tensors that are marked, and mark what it makes."""
    entered = {
        id(tensor): torch.ops.moe_export.border(tensor, f"{number}/in/{place}")
        for place, tensor in enumerate(call.tensors)
    }
    left: dict[int, tuple[_Tensor, Tensor]] = {}
    kept: list[Tensor] = []  # or another tensor might be given the same id

    def inside(value: Any) -> Any:
        return entered[id(value)] if isinstance(value, Tensor) else value

    def outside(value: Any) -> tuple[_Tensor | Any, Any]:
        if not isinstance(value, Tensor):
            return value, value
        if id(value) not in left:
            kept.append(value)
            place = len(left)
            made = torch.ops.moe_export.border(value, f"{number}/out/{place}")
            left[id(value)] = _Tensor(place), made
            _FORMS[number, place] = (value.shape, value.dtype)
        return left[id(value)]

    for slot in call.slots:
        slot.put(inside(slot.value))
    before = {slot.words: inside(slot.value) for slot in call.slots}
    args, kwargs = tree_unflatten([inside(leaf) for leaf in call.leaves], call.tree)
    with _own_tensors(call.child.module, inside):
        made = forward(*args, **kwargs)
    changed = {}
    found = {slot.words: slot for leaf in call.leaves for slot in slots_of(leaf, call.child.number)}
    for slot in call.slots:
        if found[slot.words].value is before[slot.words]:
            slot.put(slot.value)
            continue
        changed[slot.words], value = outside(found[slot.words].value)
        slot.put(value)
    leaves, tree = tree_flatten(made)
    pairs = [outside(leaf) for leaf in leaves]
    known = _Known(number, call.child.path, tree, [known for known, _ in pairs], changed)
    return known, tree_unflatten([real for _, real in pairs], tree)


@contextmanager
def _own_tensors(module: nn.Module, instead: Callable[[Any], Any]) -> Iterator[None]:
    """Let all parameters and buffers of ``module`` be others for a while."""
    before = []
    for child in module.modules():
        for holder in (child._parameters, child._buffers):
            before.append((holder, dict(holder)))
            holder.update({name: instead(tensor) for name, tensor in holder.items()})
    try:
        yield
    finally:
        for holder, values in before:
            holder.update(values)  # type: ignore[arg-type]


# --- The operators that stand for layers and their borders --------------------------------------

# Shape and dtype of what a layer gives, by its number and place, in the model being traced.
_FORMS: dict[tuple[int, int], tuple[torch.Size, torch.dtype]] = {}


@torch.library.custom_op(f"{DOMAIN}::border", mutates_args=())
def _border(x: Tensor, name: str) -> Tensor:
    """A copy of ``x``; marks where a layer begins or ends."""
    return x.clone()


@_border.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(f"{DOMAIN}::repeat", mutates_args=())
def _repeat(xs: Sequence[Tensor], number: int, place: int) -> Tensor:
    """What a layer gives at one place; it stands in a program that is never run."""
    raise AssertionError("a program of copies is not run")


@_repeat.register_fake
def _(xs: Sequence[Tensor], number: int, place: int) -> Tensor:
    shape, dtype = _FORMS[number, place]
    return xs[0].new_empty(shape, dtype=dtype)
