"""What a user's module says to be loadable: ``@model_factory`` and ``ModelSource``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, overload

from moe_export.errors import UsageError

if TYPE_CHECKING:
    import torch

_MARK = "__moe_export_model_factory__"

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True)
class ModelSource:
    """A model with everything that an export needs to know about it.

    ``example_inputs`` is a tuple in the order of ``forward``'s parameters, or a mapping by their
    names.  ``dynamic_shapes`` names the axes that vary, ``{input: {axis: name}}``; ``None`` lets
    every axis vary that the model lets vary.  ``assets`` are files that travel into the bundle
    unchanged, by file name.
    """

    module: torch.nn.Module
    example_inputs: tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None
    assets: Mapping[str, str | bytes] = field(default_factory=dict)


@overload
def model_factory(factory: Factory) -> Factory: ...


@overload
def model_factory() -> Callable[[Factory], Factory]: ...


def model_factory(factory: Factory | None = None) -> Factory | Callable[[Factory], Factory]:
    """Mark a function that checkpoints may name: ``factory(**config)`` makes their model.

    The mark is a promise by the function's author that calling it with any config is harmless:
    the config comes from a file that may come from anywhere.  The function stands at the top
    level of its module, and this decorator is written above it under the name that ``moe_export``
    was imported by, because the mark is looked for in the source text before anything is imported.

    It may be called more than once for one load, also with ``torch.device("meta")`` active.
    Raises ``UsageError`` for anything but a top-level function.
    """
    if factory is None:
        return model_factory
    if not isinstance(factory, FunctionType) or not factory.__qualname__.isidentifier():
        raise UsageError(
            f"{getattr(factory, '__qualname__', factory)!r} is not a top-level function",
            where="@moe_export.model_factory",
            hint="mark a function that stands at the top level of a module",
        )
    setattr(factory, _MARK, True)
    return factory


def is_marked(candidate: object) -> TypeGuard[FunctionType]:
    """Whether ``candidate`` is a function that its author marked with ``@model_factory``."""
    return isinstance(candidate, FunctionType) and vars(candidate).get(_MARK) is True
