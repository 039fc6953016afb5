"""Writing a checkpoint that can be read without trust: tensors, and the name of a factory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.utils.serialization import config as saving

from moe_export.errors import MoeExportError, UsageError
from moe_export.load.build import (
    make_module,
    named_tensors,
    require_same,
    same_memory,
    tied_names,
)
from moe_export.load.inputs import axes_to_json, name_axes, name_inputs
from moe_export.load.layout import DTYPES, FORMAT, VERSION, is_asset_name
from moe_export.load.resolve import is_factory_name, marked_factory, marked_source

_FACTORY_HINT = (
    "put a top-level function marked @moe_export.model_factory into a module that can be "
    "imported, and name it as 'package.module:function'"
)

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def save_checkpoint(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    factory: str,
    config: Mapping[str, Any],
    example_inputs: tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor],
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    assets: Mapping[str, str | bytes] | None = None,
) -> Path:
    """Write ``model`` to ``path`` so that ``moe-export path`` needs no code from the file.

    ``factory`` names a function marked ``@moe_export.model_factory``; ``factory(**config)`` must
    make a module with ``model``'s tensors by name, shape and dtype, and ``config`` must survive
    JSON unchanged.  ``example_inputs`` is a tuple in the order of ``forward``'s parameters or a
    mapping by their names.  ``dynamic_shapes``, ``{input: {axis: name}}``, names the axes that
    vary.  ``assets`` are files for the bundle by relative name: a tokenizer, a preprocessor.

    Tensors are stored on the CPU and row-major, each once however many names it has.  The file is
    whole or absent, and the same model makes the same bytes.  ``model`` itself is left as it is.

    Returns the path.  Raises ``UsageError`` for anything that ``load`` would refuse later.
    """
    target = _checked_path(path)
    inputs = name_inputs(model, example_inputs)
    axes = axes_to_json(name_axes(dynamic_shapes, inputs))
    state = _checked_state(model)
    plain_config = _checked_config(config)
    fresh = _built_by(factory, plain_config)
    _require_alike(fresh, model, state, where=f"factory {factory!r}")
    name_inputs(fresh, inputs)
    compact = _Compact()
    content = {
        "format": FORMAT,
        "version": VERSION,
        "factory": factory,
        "config": plain_config,
        "dynamic_shapes": axes,
        "example_inputs": {name: compact.copy(tensor) for name, tensor in inputs.items()},
        "state_dict": {name: compact.copy(tensor) for name, tensor in state.items()},
        "assets": {name: _asset(name, data) for name, data in (assets or {}).items()},
    }
    _write(content, target)
    return target


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if not os.fspath(path) or target.is_dir():
        raise UsageError(f"{os.fspath(path)!r} is not a file name", where="path")
    if not target.absolute().parent.is_dir():
        raise UsageError(
            f"the folder {target.absolute().parent} does not exist",
            where="path",
            hint="make it first",
        )
    return target


def _checked_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    for name, tensor in state.items():
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            _refuse(f"{name!r} of the model's state is not a dense tensor", "model")
        if tensor.is_meta:
            _refuse(f"{name!r} is on the meta device and has no values", "model")
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            _refuse(f"{name!r} has dtype {tensor.dtype}", "model", f"known: {', '.join(DTYPES)}")
    if not state:
        _refuse("the model has no tensors", "model")
    return dict(state)


def _checked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` in JSON's own types."""
    if not isinstance(config, Mapping):
        _refuse(f"config is a {type(config).__name__}, not a mapping", "config")
    plain: dict[str, Any] = {}
    for key, value in config.items():
        if not isinstance(key, str):
            _refuse(f"the key {key!r} is not text", "config")
        try:
            plain[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"the value of {key!r} cannot be written as JSON: {error}",
                where="config",
                hint="use numbers, text, true, false, null, lists and mappings of them",
            ) from error
        if plain[key] != value:
            _refuse(
                f"the value of {key!r} would come back as {plain[key]!r}",
                "config",
                "use lists instead of tuples, and text as the keys of mappings",
            )
    return plain


def _built_by(factory: object, config: dict[str, Any]) -> torch.nn.Module:
    """What the factory makes of the config as it will be read back."""
    function = _marked(factory)
    return make_module(function, config, where=f"factory {factory!r}")


def _require_alike(
    fresh: torch.nn.Module, model: torch.nn.Module, state: dict[str, torch.Tensor], *, where: str
) -> None:
    require_same(fresh, state, where=where)
    alive = dict(named_tensors(model))
    for first, *others in tied_names(fresh):
        for name in others:
            if {first, name} <= alive.keys() and not same_memory(alive[first], alive[name]):
                _refuse(f"the factory ties {name!r} to {first!r}, and the model does not", where)


def _marked(factory: object) -> Callable[..., Any]:
    if not isinstance(factory, str) or not is_factory_name(factory):
        _refuse(f"{factory!r} does not name a factory", "factory", _FACTORY_HINT)
    if factory.startswith("__main__:"):
        _refuse("a function of the running script cannot be imported", "factory", _FACTORY_HINT)
    try:
        # Both: the source is what a later process goes by, the function what this one calls.
        marked_source(factory, where="factory")
        return marked_factory(factory, where="factory")
    except MoeExportError as error:
        raise UsageError(error.message, where="factory", hint=_FACTORY_HINT) from error


class _Compact:
    """Row-major copies on the CPU without the rest of their storage, one for each tensor."""

    def __init__(self) -> None:
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._by_address: dict[int, list[int]] = {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        known = self._by_address.setdefault(tensor.data_ptr(), [])
        for index in known:
            original, copy = self._copies[index]
            if same_memory(original, tensor):
                return copy
        copy = tensor.cpu().contiguous()
        if copy.is_neg() or copy.untyped_storage().nbytes() != copy.numel() * copy.itemsize:
            copy = copy.resolve_neg().clone(memory_format=torch.contiguous_format)
        # The original is kept alive, so that no other tensor gets its address meanwhile.
        known.append(len(self._copies))
        self._copies.append((tensor, copy))
        return copy


def _asset(name: str, data: str | bytes) -> torch.Tensor:
    if not is_asset_name(name):
        _refuse(f"{name!r} is not a relative file name", "assets", "for example 'tokenizer.json'")
    if not isinstance(data, str | bytes):
        _refuse(f"{name!r} is a {type(data).__name__}, not text or bytes", "assets")
    encoded = bytearray(data.encode() if isinstance(data, str) else data)
    # As a tensor it is one record of the archive, and stays out of the pickle.
    return torch.frombuffer(encoded, dtype=torch.uint8) if encoded else torch.empty(0).byte()


def _write(content: dict[str, Any], target: Path) -> None:
    """Write beside ``target`` and move there, so that a reader sees all or nothing."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    # The checksums are how ``load`` notices damage, and tensors are mapped at their alignment;
    # the process may have switched off the one and lowered the other.
    options = {"save.compute_crc32": True, "save.storage_alignment": 64}
    try:
        with saving.patch(options), draft.open("xb") as file:  # type: ignore[attr-defined]
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        raise UsageError(f"cannot write it: {error.strerror}", where=str(target)) from error
    finally:
        draft.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        folder = os.open(target.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _refuse(message: str, where: str, hint: str | None = None) -> NoReturn:
    raise UsageError(message, where=where, hint=hint)
