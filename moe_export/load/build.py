"""From a factory, its config and named tensors to a module that holds those tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from moe_export.errors import UsageError
from moe_export.load.usercode import run_user_code

_CHANGED = "has the factory's code changed since the checkpoint was saved?"
# Enough to recognise the pattern in a message.
_SHOWN = 5


def build(
    factory: Callable[..., Any],
    config: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    *,
    where: str,
) -> torch.nn.Module:
    """The module of ``factory(**config)`` with ``state`` as its parameters and buffers.

    The tensors are taken as they are, not copied.  The module is built on the meta device, where
    it allocates nothing, and a second time for real only if it then lacks something that ``state``
    does not hold.  Parameters that the factory ties stay tied.

    Raises ``UsageError`` where the factory fails, or makes a module whose tensors are not those
    of ``state`` by name, shape and dtype.
    """
    module = make_module(factory, config, where=where)
    require_same(module, state, where=where)
    if _lacks_values(module, state):
        module = _call(factory, config, where=where)
        require_same(module, state, where=where)
    ties = tied_names(module)
    _require_tied(ties, state, where=where)
    module.load_state_dict(dict(state), strict=True, assign=True)
    _tie(module, ties)
    return module


def make_module(
    factory: Callable[..., Any], config: Mapping[str, Any], *, where: str
) -> torch.nn.Module:
    """The module on the meta device, or for real where the factory needs values to build it.

    Raises ``UsageError`` where it fails for real too.
    """
    try:
        with torch.device("meta"):
            return _call(factory, config, where=where)
    except UsageError:
        return _call(factory, config, where=where)


def require_same(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """``UsageError`` unless ``state`` has the names, shapes and dtypes of ``module``'s tensors."""
    wanted = module.state_dict(keep_vars=True)
    problems = [
        *_list("missing", (name for name in wanted if name not in state)),
        *_list("unexpected", (name for name in state if name not in wanted)),
        *_list("different", _differences(wanted, state)),
    ]
    if problems:
        raise UsageError(
            f"the tensors are not those of the factory's {type(module).__name__}: "
            + "; ".join(problems),
            where=where,
            hint=_CHANGED,
        )


def tied_names(module: torch.nn.Module) -> list[tuple[str, ...]]:
    """Groups of names that are one parameter or buffer, each group in the module's order."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, tensor in named_tensors(module):
        groups[id(tensor)].append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def named_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters and buffers, tied ones once for each name."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same bytes read in the same way."""
    return (
        a.data_ptr() == b.data_ptr()
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
    )


def _call(factory: Callable[..., Any], config: Mapping[str, Any], *, where: str) -> torch.nn.Module:
    module = run_user_code(lambda: factory(**config), failure="the factory failed", where=where)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"the factory returned an object of type {type(module).__name__}, not an nn.Module",
            where=where,
        )
    return module


def _lacks_values(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a tensor on the meta device would stay there: one that ``state`` does not set."""
    unset = (tensor for name, tensor in named_tensors(module) if name not in state)
    plain = (value for part in module.modules() for value in _attributes(part))
    return any(tensor.is_meta for tensor in (*unset, *plain))


def _attributes(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that the module keeps as plain attributes, also inside containers."""
    registered = ("_parameters", "_buffers", "_modules")
    pending = [value for name, value in vars(module).items() if name not in registered]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list | tuple | set):
            pending.extend(value)


def _require_tied(
    ties: list[tuple[str, ...]], state: Mapping[str, torch.Tensor], *, where: str
) -> None:
    for first, *others in ties:
        for name in others:
            if first in state and name in state and not same_memory(state[first], state[name]):
                raise UsageError(
                    f"the factory ties {name!r} to {first!r}, and they are two tensors here",
                    where=where,
                    hint=_CHANGED,
                )


def _tie(module: torch.nn.Module, ties: list[tuple[str, ...]]) -> None:
    # Assigning a state dict makes a new parameter for every name.
    for first, *others in ties:
        tensor = _owner(module, first)
        for name in others:
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, tensor)


def _owner(module: torch.nn.Module, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(path), leaf)


def _differences(wanted: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, tensor in wanted.items():
        given = state.get(name)
        if given is None:
            continue
        if not isinstance(tensor, torch.Tensor):
            yield f"{name} (the factory's is no tensor)"
        elif (tensor.shape, tensor.dtype) != (given.shape, given.dtype):
            yield f"{name} ({_form(given)}, the factory's is {_form(tensor)})"


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _list(word: str, names: Iterator[str]) -> list[str]:
    found = list(names)
    if not found:
        return []
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [f"{word} {', '.join(found[:_SHOWN])}{more}"]
