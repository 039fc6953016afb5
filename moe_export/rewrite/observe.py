"""Watch one run of a module in float64, operator by operator, as values in single assignment.

The recogniser reads structure from such an observation instead of from source code: loops over
experts, helper modules and in-place writes all end as the same few operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_LOW_PRECISION = (torch.float32, torch.float16, torch.bfloat16)


class Float64Mode(TorchDispatchMode):
    """Compute in float64 whatever precision the code asks for.

    Routers are often written with ``.float()`` or ``softmax(dtype=torch.float32)``; rounding to
    float32 in the middle would hide differences that a proof must see.
    """

    def __init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return func(*args, **in_float64(kwargs or {}))


def in_float64(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an operator with any narrower floating dtype widened."""
    return {
        key: torch.float64 if key == "dtype" and value in _LOW_PRECISION else value
        for key, value in kwargs.items()
    }


@dataclass(frozen=True)
class Ref:
    """An argument that is the value of that index."""

    index: int


@dataclass(frozen=True)
class Value:
    """A tensor at one moment.  ``data`` is a copy, so later in-place writes leave it alone."""

    index: int
    call: int | None
    """The call that made it; ``None`` for inputs, parameters and buffers."""

    position: int
    """Which of the call's results it is."""

    data: Tensor
    name: str | None = None
    """Qualified name of a parameter or buffer."""


@dataclass(frozen=True)
class Call:
    """One operator call: arguments with tensors replaced by ``Ref``, and what it made."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    results: tuple[int, ...]
    dtype: torch.dtype | None
    """The floating dtype that the code asked for, before it was widened."""


@dataclass
class Observation:
    """Everything one run did: values, calls, and where its input and outputs are."""

    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    input: int = -1
    output: Any = None
    """The module's return value, tensors replaced by ``Ref``."""

    def consumers(self) -> dict[int, list[int]]:
        """For every value, the calls that read it."""
        readers: dict[int, list[int]] = {value.index: [] for value in self.values}
        for number, call in enumerate(self.calls):
            for index in call.inputs:
                readers[index].append(number)
        return readers

    def descendants(self, *starts: int) -> set[int]:
        """Values that depend on one of ``starts``, which are none of them by themselves."""
        readers = self.consumers()
        found: set[int] = set()
        frontier = list(starts)
        while frontier:
            for number in readers[frontier.pop()]:
                fresh = [index for index in self.calls[number].results if index not in found]
                found.update(fresh)
                frontier.extend(fresh)
        return found

    def ancestors(self, start: int) -> set[int]:
        """Values that ``start`` depends on, with ``start``."""
        found = {start}
        frontier = [start]
        while frontier:
            number = self.values[frontier.pop()].call
            if number is None:
                continue
            fresh = [index for index in self.calls[number].inputs if index not in found]
            found.update(fresh)
            frontier.extend(fresh)
        return found

    def constants(self) -> list[float]:
        """The floating-point numbers written in the calls, each once, in order of appearance."""
        found: dict[float, None] = {}
        for call in self.calls:
            for leaf in tree_leaves((call.args, call.kwargs)):
                if isinstance(leaf, float):
                    found.setdefault(leaf)
        return list(found)

    def random_op(self) -> str | None:
        """The first operator that draws random numbers, if any."""
        for call in self.calls:
            if torch.Tag.nondeterministic_seeded in call.op.tags:
                return str(call.op)
        return None


class BlockRunError(Exception):
    """A block refused an input that other mixture-of-experts blocks take."""


def run_block(module: nn.Module, x: Tensor) -> Any:
    """``module(x)`` in float64; ``BlockRunError`` where its own code objects."""
    try:
        with torch.no_grad(), Float64Mode():
            return module(x)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BlockRunError(f"it does not run on tokens {list(x.shape)}: {reason}") from error


def observe(module: nn.Module, x: Tensor) -> Observation:
    """Run ``module(x)`` and return what happened.  ``module`` and ``x`` must be float64."""
    recorder = _Recorder(module)
    recorder.observation.input = recorder.place(x, call=None, position=0)
    with torch.no_grad(), recorder:
        output = module(x)
    recorder.observation.output = tree_map(recorder.reference, output)
    return recorder.observation


class _Recorder(TorchDispatchMode):
    """Gives every tensor an index at each moment it changes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.observation = Observation()
        self._current: dict[int, int] = {}
        self._alive: list[Tensor] = []  # an id() is only a name while its object lives
        self._sharing: dict[int, list[Tensor]] = {}
        for name, tensor in _named_tensors(module):
            self.place(tensor, call=None, position=0, name=name)

    def place(self, tensor: Tensor, *, call: int | None, position: int, name: str = "") -> int:
        """Give ``tensor`` as it is now an index."""
        values = self.observation.values
        data = tensor.detach() if name else tensor.detach().clone()
        values.append(Value(len(values), call, position, data, name or None))
        if id(tensor) not in self._current:
            self._alive.append(tensor)
            self._sharing.setdefault(_storage(tensor), []).append(tensor)
        self._current[id(tensor)] = values[-1].index
        return values[-1].index

    def reference(self, leaf: Any) -> Any:
        return Ref(self._index(leaf)) if isinstance(leaf, Tensor) else leaf

    def _index(self, tensor: Tensor) -> int:
        known = self._current.get(id(tensor))
        return self.place(tensor, call=None, position=0) if known is None else known

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        kwargs = in_float64(given)
        references = tree_map(self.reference, (args, kwargs))
        result = func(*args, **kwargs)
        number = len(self.observation.calls)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        touched = made + list(self._aliases(made)) if func._schema.is_mutable else made
        with torch.utils._python_dispatch._disable_current_modes():
            results = [self.place(t, call=number, position=i) for i, t in enumerate(touched)]
        self.observation.calls.append(
            Call(
                op=func,
                args=references[0],
                kwargs=references[1],
                inputs=tuple(
                    leaf.index for leaf in tree_leaves(references) if isinstance(leaf, Ref)
                ),
                results=tuple(results),
                dtype=given.get("dtype"),
            )
        )
        return result

    def _aliases(self, written: list[Tensor]) -> Iterator[Tensor]:
        """Other tensors over the same memory: an in-place write changes them too."""
        seen = {id(tensor) for tensor in written}
        for tensor in written:
            for other in self._sharing.get(_storage(tensor), []):
                if id(other) not in seen:
                    seen.add(id(other))
                    yield other


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
