"""The stage ``load``: whatever a user may call a model becomes an eager module with inputs."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from moe_export.errors import UsageError
from moe_export.forms import ExportSpec, LoadedModel, Source
from moe_export.load.build import build, named_tensors
from moe_export.load.factory import ModelSource
from moe_export.load.fingerprint import fingerprint, fingerprint_of_files
from moe_export.load.inputs import name_axes, name_inputs
from moe_export.load.layout import is_asset_name
from moe_export.load.pickled import HOW_TO_SAVE, pickle_refused, read_trusted_pickle
from moe_export.load.reader import (
    Checkpoint,
    MappedTensor,
    PickledObjects,
    PlainWeights,
    read_file,
)
from moe_export.load.resolve import (
    add_python_path,
    is_factory_name,
    marked_factory,
    trusted_attribute,
    without_current_folder,
)
from moe_export.load.usercode import run_user_code

_INPUTS_HINT = (
    "pass example_inputs=(...) or --example-inputs in.npz, or return (module, example_inputs) "
    "from a factory"
)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What came through a source's own door.

    ``model.example_inputs`` is empty where only the user can give them, and then has given them.
    """

    model: ModelSource
    description: str
    mapped: Mapping[str, MappedTensor] = field(default_factory=dict)


def load(spec: ExportSpec) -> LoadedModel:
    """The eager model that ``spec.source`` names, in eval mode on the CPU, with its inputs.

    What the user gave in ``spec`` (inputs, dynamic shapes) replaces what the source carries.
    Weights of a checkpoint stay in its file until they are used.  A module that the user passes in
    is left as it is: the loaded one shares its tensors and nothing else.

    Which code runs for which source is the subject of docs/trust.md.  Raises ``UsageError`` for a
    source that is not there or does not fit its inputs, ``UnsupportedError`` for a kind that this
    release does not read, and ``UnsafeInputError`` for a file that is damaged, hostile, or asks
    for a trust that it was not given.
    """
    add_python_path(spec.python_path)
    if _is_pretrained(spec.source):
        return _load_pretrained(spec)
    if spec.all_logits:
        raise UsageError(
            "all logits were asked for, and the model is not the folder of a Transformers model",
            where="--all-logits",
            hint="other models give what their forward returns",
        )
    found = _door(spec.source)(spec)
    module = found.model.module
    module.eval().requires_grad_(requires_grad=False)
    _require_cpu(module)
    given = found.model.example_inputs if spec.example_inputs is None else spec.example_inputs
    inputs = name_inputs(module, given)
    shapes = found.model.dynamic_shapes if spec.dynamic_shapes is None else spec.dynamic_shapes
    return LoadedModel(
        module=module,
        example_inputs=inputs,
        dynamic_shapes=name_axes(shapes, inputs),
        assets=_checked_assets(found.model.assets),
        source=Source(description=found.description, fingerprint=fingerprint(module, found.mapped)),
    )


def _door(source: Any) -> Callable[[ExportSpec], _Found]:
    for is_kind, door in _KINDS:
        if is_kind(source):
            return door
    raise UsageError(
        f"there is no file {os.fspath(source)!r}"
        if isinstance(source, str | os.PathLike)
        else f"a {type(source).__name__} is not a model",
        where="model",
        hint="name a checkpoint such as model.pt, or package.module:factory; "
        "in Python an nn.Module will do too",
    )


def _is_module(source: Any) -> bool:
    return isinstance(source, torch.nn.Module)


def _is_pretrained(source: Any) -> bool:
    return _is_folder(source) and (Path(source) / "config.json").is_file()


def _is_folder(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) and os.path.isdir(source)


def _is_file(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) and os.path.exists(source)


def _is_name(source: Any) -> bool:
    return isinstance(source, str) and is_factory_name(source)


def _from_module(spec: ExportSpec) -> _Found:
    _require_inputs(spec, "an nn.Module")
    return _Found(
        model=ModelSource(_sharing_copy(spec.source), ()),
        description=type(spec.source).__name__,
    )


def _load_pretrained(spec: ExportSpec) -> LoadedModel:
    """A Transformers directory: a decoder, and beside it the parts that feed it."""
    from moe_export.lazy import one_core_for_operators
    from moe_export.load.pretrained import (
        NarrowBlocks,
        assemble,
        dialogue_assets,
        questions,
        read_directory,
    )

    folder = Path(spec.source)
    if spec.example_inputs is not None or spec.dynamic_shapes is not None:
        raise UsageError(
            "a Transformers directory needs neither example inputs nor dynamic shapes",
            where=str(folder),
            hint="its configuration says what the model takes",
        )
    found = read_directory(folder)
    assets = {**found.assets, **dialogue_assets(found, folder)}
    with one_core_for_operators():
        parts = assemble(found, all_logits=spec.all_logits)
    source = Source(
        description=folder.resolve().name, fingerprint=fingerprint_of_files(found.stored)
    )
    found.model.requires_grad_(requires_grad=False)
    beside_output = spec.output.parent if spec.output.parent.is_dir() else None
    decoder, *others = [
        LoadedModel(
            module=part.module,
            example_inputs=part.inputs.example,
            dynamic_shapes=part.inputs.axes,
            assets=assets,
            source=source,
            component=part.name,
            left_out=found.left_out,
            cases=part.inputs.cases,
            spool_folder=beside_output,
            narrow_block=NarrowBlocks(found.model, part.module),
            modality=part.inputs.modality,
        )
        for part in parts
    ]
    return replace(decoder, beside=tuple(others), asked=questions(found, assets))


def _from_folder(spec: ExportSpec) -> _Found:
    folder = Path(spec.source)
    raise UsageError(
        "the model is a folder without a config.json",
        where=str(folder),
        hint="name a checkpoint file such as model.pt",
    )


def _from_file(spec: ExportSpec) -> _Found:
    path = Path(spec.source)
    match read_file(path):
        case Checkpoint() as checkpoint:
            return _from_checkpoint(path, checkpoint)
        case PickledObjects() as found:
            return _from_pickle(spec, path, found)
        case PlainWeights():
            raise UsageError(
                "the file holds weights without the code that uses them",
                where=str(path),
                hint=f"build the model, load the weights into it, and {HOW_TO_SAVE}",
            )


def _from_checkpoint(path: Path, checkpoint: Checkpoint) -> _Found:
    where = f"factory {checkpoint.factory!r} named by {path}"
    state = {name: item.tensor for name, item in checkpoint.state.items()}
    with without_current_folder():
        factory = marked_factory(checkpoint.factory, where=str(path))
        module = build(factory, checkpoint.config, state, where=where)
    model = ModelSource(
        module, checkpoint.example_inputs, checkpoint.dynamic_shapes, checkpoint.assets
    )
    return _Found(model=model, description=path.name, mapped=checkpoint.state)


def _from_pickle(spec: ExportSpec, path: Path, found: PickledObjects) -> _Found:
    if not spec.trust_pickle:
        raise pickle_refused(path, found)
    _require_inputs(spec, "a pickled module")
    module = read_trusted_pickle(path)
    return _Found(model=ModelSource(module, ()), description=path.name)


def _from_name(spec: ExportSpec) -> _Found:
    name = str(spec.source)
    factory = trusted_attribute(name)
    if not callable(factory):
        raise UsageError(
            f"{name!r} is no function, its type is {type(factory).__name__}", where=name
        )
    made = run_user_code(factory, failure="the factory failed", where=name)
    match made:
        case ModelSource():
            model = made
        case torch.nn.Module():
            _require_inputs(spec, f"{name}, which returns a module alone,")
            model = ModelSource(made, ())
        case (torch.nn.Module() as module, inputs):
            model = ModelSource(module, inputs)
        case _:
            raise UsageError(
                f"{name!r} returned an object of type {type(made).__name__}",
                where=name,
                hint="return an nn.Module, (module, example_inputs) or moe_export.ModelSource",
            )
    return _Found(model=model, description=name)


# One row for each kind of source; the first that recognises it opens its door.
_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[ExportSpec], _Found]], ...] = (
    (_is_module, _from_module),
    (_is_folder, _from_folder),
    (_is_file, _from_file),
    (_is_name, _from_name),
)


def _require_inputs(spec: ExportSpec, what: str) -> None:
    if spec.example_inputs is None:
        raise UsageError(
            f"{what} needs example inputs: they say what the model takes",
            where="example_inputs",
            hint=_INPUTS_HINT,
        )


def _sharing_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of the module's structure around the same tensors.

    Putting the user's own module into eval mode and freezing it would stop a training in progress.
    """
    memo: dict[int, Any] = {}
    for _, tensor in named_tensors(module):
        shared = tensor.detach()
        memo[id(tensor)] = (
            torch.nn.Parameter(shared, requires_grad=False)
            if isinstance(tensor, torch.nn.Parameter)
            else shared
        )
    name = type(module).__name__
    copied: torch.nn.Module = run_user_code(
        lambda: copy.deepcopy(module, memo), failure=f"{name} cannot be copied", where=name
    )
    return copied


def _require_cpu(module: torch.nn.Module) -> None:
    for name, tensor in named_tensors(module):
        if tensor.device.type != "cpu":
            raise UsageError(
                f"{name!r} is on {tensor.device}, and models are exported from the CPU",
                where=type(module).__name__,
                hint="move it with module.cpu()" if not tensor.is_meta else "give it values first",
            )


def _checked_assets(assets: Mapping[str, str | bytes]) -> dict[str, bytes]:
    for name, data in assets.items():
        if not is_asset_name(name) or not isinstance(data, str | bytes):
            raise UsageError(
                f"the asset {name!r} is not text or bytes under a relative file name",
                where="assets",
                hint="for example {'tokenizer.json': '...'}",
            )
    return {name: data.encode() if isinstance(data, str) else data for name, data in assets.items()}
