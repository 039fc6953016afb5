"""Recipes: how a weight of an op is made from tensors of the source model, without making it.

A recipe knows its shape, its dtype and the names it reads; ``build`` reads and writes bytes, and
``map`` changes its sources.  The weights of a model stay recipes from ``rewrite`` to ``bundle``,
where they are built one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Read = Callable[[str], Array]
Change = Callable[["Source"], "Source"]


@dataclass(frozen=True)
class Source:
    """A tensor of the source model, by its qualified name."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def sources(self) -> tuple[str, ...]:
        return (self.name,)

    def map(self, change: Change) -> Source:
        return change(self)

    def build(self, read: Read) -> Array:
        return read(self.name).reshape(self.shape)


@dataclass(frozen=True)
class Transposed:
    """The last two axes of a weight, exchanged."""

    inner: Recipe

    @property
    def shape(self) -> tuple[int, ...]:
        *batch, rows, columns = self.inner.shape
        return (*batch, columns, rows)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inner.dtype

    def sources(self) -> tuple[str, ...]:
        return self.inner.sources()

    def map(self, change: Change) -> Transposed:
        return Transposed(self.inner.map(change))

    def build(self, read: Read) -> Array:
        return np.ascontiguousarray(np.swapaxes(self.inner.build(read), -1, -2))


@dataclass(frozen=True)
class Reshaped:
    """The same numbers in the same order under another shape."""

    inner: Recipe
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if math.prod(self.shape) != math.prod(self.inner.shape):
            raise ValueError(f"{self.inner.shape} cannot become {self.shape}")

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inner.dtype

    def sources(self) -> tuple[str, ...]:
        return self.inner.sources()

    def map(self, change: Change) -> Reshaped:
        return Reshaped(self.inner.map(change), self.shape)

    def build(self, read: Read) -> Array:
        return self.inner.build(read).reshape(self.shape)


@dataclass(frozen=True)
class Stacked:
    """Alike weights of E experts under a new first axis."""

    parts: tuple[Recipe, ...]

    def __post_init__(self) -> None:
        _require_alike([(part.shape, part.dtype) for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    def sources(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.sources())

    def map(self, change: Change) -> Stacked:
        return Stacked(tuple(part.map(change) for part in self.parts))

    def build(self, read: Read) -> Array:
        out = np.empty(self.shape, self.dtype)
        for row, part in zip(out, self.parts, strict=True):
            row[...] = part.build(read)
        return out


@dataclass(frozen=True)
class Concatenated:
    """Weights of E experts joined along their row axis: ``[E, I, H]`` twice is ``[E, 2I, H]``."""

    parts: tuple[Recipe, ...]

    def __post_init__(self) -> None:
        _require_alike([((part.shape[0], *part.shape[2:]), part.dtype) for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        return (first[0], sum(part.shape[1] for part in self.parts), *first[2:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    def sources(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.sources())

    def map(self, change: Change) -> Concatenated:
        return Concatenated(tuple(part.map(change) for part in self.parts))

    def build(self, read: Read) -> Array:
        out = np.empty(self.shape, self.dtype)
        start = 0
        for part in self.parts:
            stop = start + part.shape[1]
            out[:, start:stop] = part.build(read)
            start = stop
        return out


@dataclass(frozen=True)
class Leading:
    """The first E of what has a row for more."""

    inner: Recipe
    count: int

    def __post_init__(self) -> None:
        if not 0 < self.count <= self.inner.shape[0]:
            raise ValueError(f"{self.inner.shape} has no {self.count} rows")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.inner.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inner.dtype

    def sources(self) -> tuple[str, ...]:
        return self.inner.sources()

    def map(self, change: Change) -> Leading:
        return Leading(self.inner.map(change), self.count)

    def build(self, read: Read) -> Array:
        return self.inner.build(read)[: self.count]


Recipe = Source | Transposed | Reshaped | Stacked | Concatenated | Leading


def _require_alike(facts: list[Any]) -> None:
    if not facts or any(fact != facts[0] for fact in facts):
        raise ValueError(f"weights that are joined must be alike, got {facts}")
