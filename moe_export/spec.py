"""The user's words, checked once: what comes out is an ``ExportSpec`` that every stage can trust.

Nothing here opens a model or imports a framework; a wrong word costs no more than its message.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from moe_export.errors import MissingEnvironmentError, UsageError
from moe_export.forms import Device, EngineLimits, EngineSpec, ExportSpec
from moe_export.moe.quantize import Precision, parse_precision

StrPath = str | os.PathLike[str]

# What an export imports beyond what a bundle needs where it runs.
_WORKSHOP = ("torch", "onnx", "onnx_ir", "onnxscript", "jinja2", "ml_dtypes")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A place where a bundle can run."""

    name: str
    runs_on: str
    has_engines: bool = False
    devices: tuple[Device, ...] = ("cpu",)
    """What may be chosen; engines run on a GPU without being told."""


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="ort",
            runs_on="ONNX Runtime with this project's kernels",
            devices=("cpu", "cuda"),
        ),
        Target(name="standard", runs_on="any ONNX runtime, through standard ops"),
        Target(
            name="trt",
            runs_on="TensorRT with this project's plugins",
            has_engines=True,
        ),
        Target(
            name="trt-rtx",
            runs_on="TensorRT-RTX with this project's plugins",
            has_engines=True,
        ),
    )
}
DEFAULT_TARGET = "ort"
PRECISIONS = (
    "f32, bf16, f16, int8, int8:BLOCK, int4, int4:BLOCK; integers also with +zeros; all with what"
    " rows are rounded to, as in int4@bf16"
)
"""What a person may ask for, in one line; ``parse_precision`` reads it."""

# TensorRT's dimensions have 31 bits, and products of them are offsets.
_MOST = 1 << 24

_SIZE = re.compile(r"(\d{1,15})(\.\d{1,15})? ?(?:([kmgt])(ib|b)?|b)?", re.ASCII | re.IGNORECASE)


def export_spec(
    source: Any,
    *,
    target: str = DEFAULT_TARGET,
    precision: str = "f32",
    dense_precision: str = "f32",
    output: StrPath | None = None,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
    python_path: Sequence[StrPath] = (),
    trust_pickle: bool = False,
    force: bool = False,
    max_memory: int | str | None = None,
    all_logits: bool = False,
    device: str = "cpu",
    sms: Sequence[int | str] = (),
    max_batch: int | None = None,
    max_tokens: int | None = None,
    max_image_tokens: int | None = None,
    embed_plugins: bool = False,
) -> ExportSpec:
    """Check what the user asked for and put it into the form that the stages read.

    ``source`` is a path, ``package.module:factory`` or an ``nn.Module``; a string becomes neither
    a path nor a module here, that is for ``load`` to find out.  ``output`` is left out by commands
    that only look at a model.  Whether a bundle already lies at ``output`` is for the room that
    writes it.

    Raises ``UsageError`` for words that cannot be meant, and ``MissingEnvironmentError`` where
    only bundles can be run.
    """
    source, target = _checked_source(source), _checked_target(target)
    runs_on = _checked_device(device, target)
    on_gpu = TARGETS[target].has_engines or runs_on == "cuda"
    experts = _checked_precision(precision, "--precision", on_gpu=on_gpu)
    dense = _checked_precision(dense_precision, "--dense-precision", on_gpu=on_gpu)
    sizes = {
        "max_batch": max_batch,
        "max_tokens": max_tokens,
        "max_image_tokens": max_image_tokens,
    }
    engines = engine_spec(target, sms=sms, sizes=sizes, embed_plugins=embed_plugins)
    _require_workshop()
    return ExportSpec(
        source=source,
        target=target,
        precision=experts,
        dense_precision=dense,
        output=Path() if output is None else _checked_output(output),
        example_inputs=example_inputs,
        dynamic_shapes=dynamic_shapes,
        python_path=tuple(_checked_folder(folder) for folder in _as_folders(python_path)),
        trust_pickle=trust_pickle,
        force=force,
        max_memory=None if max_memory is None else memory_size(max_memory),
        all_logits=all_logits,
        engines=engines,
        device=runs_on,
    )


def engine_spec(
    target: str,
    *,
    sms: Sequence[int | str] = (),
    sizes: Mapping[str, int | None],
    embed_plugins: bool = False,
) -> EngineSpec | None:
    """What engines of ``target`` are asked for; ``None`` where it runs none.

    Raises ``UsageError`` for words that cannot be meant, also for any on a target without engines.
    """
    given = {name: size for name, size in sizes.items() if size is not None}
    if not TARGETS[target].has_engines:
        words = [*(["sm"] if sms else []), *given, *(["embed_plugins"] if embed_plugins else [])]
        if words:
            raise UsageError(
                f"target {target!r} has no engines to say this of",
                where="--" + words[0].replace("_", "-"),
                hint="--target trt-rtx and --target trt have",
            )
        return None
    for name, size in given.items():
        if not 0 < size <= _MOST:
            where = "--" + name.replace("_", "-")
            raise UsageError(f"{size} is not a size from 1 to {_MOST}", where=where)
    return EngineSpec(
        sms=tuple(dict.fromkeys(map(_checked_sm, sms))),
        limits=EngineLimits(**given),
        embed_plugins=embed_plugins,
    )


def _checked_sm(given: int | str) -> int:
    found = re.fullmatch(
        r"(?:sm_?)?(\d{2,3})a?|(\d{1,2})\.(\d)", str(given), re.IGNORECASE | re.ASCII
    )
    if found is None:
        raise UsageError(
            f"{given!r} is no compute capability",
            where="--sm",
            hint="for example 89, sm_120 or 8.6",
        )
    whole, major, minor = found.groups()
    return int(whole or major + minor)


def _require_workshop() -> None:
    """Refuse to begin where the packages of the ``export`` extra are not installed."""
    missing = [name for name in _WORKSHOP if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingEnvironmentError(
            f"exporting needs {', '.join(missing)}, which this environment does not have",
            where="the packages of the export extra",
            hint="pip install 'moe-export[export]'",
        )


def _checked_source(source: Any) -> Any:
    if source is None or (isinstance(source, str | os.PathLike) and not os.fspath(source)):
        raise UsageError(
            "no model was named",
            hint="name a checkpoint such as model.pt, or package.module:factory",
        )
    if isinstance(source, bytes):
        raise UsageError(
            f"a model is named by text, got the bytes {source[:40]!r}",
            hint="pass a str or a pathlib.Path",
        )
    return source


def _checked_target(name: str) -> str:
    target = TARGETS.get(name)
    if target is None:
        near = difflib.get_close_matches(str(name), TARGETS, n=1)
        raise UsageError(
            f"unknown target {name!r}",
            where="--target",
            hint=f"did you mean {near[0]!r}?" if near else f"targets: {', '.join(TARGETS)}",
        )
    return target.name


def _checked_device(name: str, target: str) -> Device:
    for device in TARGETS[target].devices:
        if device == name:
            return device
    known = {device for each in TARGETS.values() for device in each.devices}
    if name not in known:
        raise UsageError(
            f"unknown device {name!r}",
            where="--device",
            hint=f"devices: {', '.join(sorted(known))}",
        )
    having = [each.name for each in TARGETS.values() if name in each.devices]
    raise UsageError(
        f"target {target!r} has no choice of device",
        where=f"--device {name}",
        hint=f"--target {having[0]} has",
    )


def _checked_precision(text: str, where: str, *, on_gpu: bool) -> Precision:
    """On a GPU rows that meet integers are rounded to bfloat16, unless they are said to be else."""
    try:
        precision = parse_precision(text)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"unknown precision {text!r}", where=where, hint=f"precisions: {PRECISIONS}"
        ) from error
    integers = precision.format in ("int8", "int4")
    return replace(precision, rows="bf16") if on_gpu and integers and "@" not in text else precision


def memory_size(given: int | str) -> int:
    """Bytes of ``--max-memory``: ``4GiB``, ``3.5G``, ``800MB`` or a whole number of bytes.

    As GNU's tools have it, ``G`` and ``GiB`` are 1024 ** 3, and ``GB`` is 1000 ** 3.
    """
    found = _SIZE.fullmatch(str(given))
    if found is not None:
        whole, part, letter, unit = found.groups(default="")
        base = 1000 if unit.lower() == "b" else 1024
        power = "kmgt".index(letter.lower()) + 1 if letter else 0
        bytes_ = int(Fraction(whole + part) * base**power)
        if bytes_ and (letter or not part):
            return bytes_
    raise UsageError(
        f"{given!r} is no size of memory",
        where="--max-memory",
        hint="for example 4GiB, 3.5G, 800MiB, or a number of bytes",
    )


def _checked_output(output: StrPath) -> Path:
    where = "--output"
    if not os.fspath(output):
        raise UsageError("the output path is empty", where=where, hint="name a new folder")
    if "\0" in os.fspath(output):
        raise UsageError("the output path holds a NUL character", where=where)
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise UsageError(
            f"{path} is a file", where=where, hint="a bundle is a folder: name a new one"
        )
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(
            f"{path} cannot be made: {parent} is not a folder",
            where=where,
            hint="make the parent folder first",
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be made: {parent} is not writable", where=where)
    return path


def _as_folders(python_path: Sequence[StrPath]) -> Sequence[StrPath]:
    # A lone string is a sequence too: of one-letter folders.
    return (python_path,) if isinstance(python_path, str | os.PathLike) else python_path


def _checked_folder(folder: StrPath) -> Path:
    path = Path(folder)
    if not os.fspath(folder) or "\0" in os.fspath(folder) or not path.is_dir():
        raise UsageError(
            f"{os.fspath(folder)!r} is not a folder",
            where="--python-path",
            hint="name the folder that holds the package, not the package itself",
        )
    return path.absolute()
