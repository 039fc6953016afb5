"""Reading a PyTorch file from anywhere: a child process parses it, this one checks and maps.

This process never unpickles.  It takes the child's answer as a claim: every tensor must be exactly
one record of the archive, and is then mapped from the file, so that weights are read when used.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from moe_export.load.archive import Archive, LegacyFileError, Record, open_archive
from moe_export.load.child import ask_child, refusal
from moe_export.load.inputs import axes_from_json
from moe_export.load.layout import DTYPES, FORMAT, HEADER, SECTIONS, VERSION, is_asset_name

_MAX_AXIS = 1 << 40
_MAX_RANK = 32

# Linux's value on every architecture but four; Python 3.11 does not name it.  A private mapping
# is otherwise charged in full against memory, and a model larger than that could not be opened.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


@dataclass(frozen=True, kw_only=True)
class MappedTensor:
    """A tensor whose bytes are read from the file when used, and the SHA-256 of those bytes."""

    tensor: torch.Tensor
    digest: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What ``save_checkpoint`` wrote: plain data and mapped tensors, nothing that runs."""

    factory: str
    config: Mapping[str, Any]
    example_inputs: Mapping[str, torch.Tensor]
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None
    assets: Mapping[str, bytes]
    state: Mapping[str, MappedTensor]


@dataclass(frozen=True, kw_only=True)
class PickledObjects:
    """A file that only an unrestricted unpickler could read, and what it would import."""

    globals: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True)
class PlainWeights:
    """Tensors and numbers without the code that uses them: a state dict, an optimizer's state."""


def read_file(path: Path) -> Checkpoint | PickledObjects | PlainWeights:
    """Find out what the PyTorch file at ``path`` is, and read it if that is safe.

    Raises ``UsageError`` if there is no such file and ``UnsafeInputError`` for one that is
    damaged, hostile, or a checkpoint of an unknown version.
    """
    try:
        archive = open_archive(path)
    except LegacyFileError:
        return PickledObjects(globals=(), reason="written by a PyTorch older than 1.6")
    with archive:
        answer = ask_child(archive.file, path)
        if answer.get("kind") == "checkpoint":
            return checkpoint_from(answer, archive)
    if answer.get("kind") == "pickle":
        names = tuple(str(name) for name in answer.get("globals") or ())
        return PickledObjects(globals=names, reason=answer.get("reason"))
    if answer.get("kind") == "weights":
        return PlainWeights()
    raise refusal(path, "its contents could not be told")


def checkpoint_from(answer: Mapping[str, Any], archive: Archive) -> Checkpoint:
    """Check the child's ``answer`` against the archive and map the tensors.

    Raises ``UnsafeInputError`` for anything that ``save_checkpoint`` would not have written.
    """
    path = archive.path
    header, sections = answer.get("header"), answer.get("tensors")
    if not isinstance(header, dict) or not isinstance(sections, dict):
        _refuse(path, "it has no header")
    if header.get("format") != FORMAT:
        _refuse(path, f"its format is {str(header.get('format'))[:100]!r}, not {FORMAT!r}")
    if type(header.get("version")) is not int or header["version"] != VERSION:
        _refuse(
            path,
            f"it has version {str(header.get('version'))[:20]!r} of the format, "
            f"and this release reads version {VERSION}",
        )
    # A section without tensors comes back among the plain entries, as the empty mapping it is.
    empty = {key for key in SECTIONS if header.get(key) == {}}
    if set(header) - empty != set(HEADER) or set(sections) | empty != set(SECTIONS):
        _refuse(path, "its entries are not those of a checkpoint")
    maker = _Mapper(archive)
    mapped = {key: maker.map_all(sections.get(key, {})) for key in SECTIONS}
    inputs = {name: item.tensor for name, item in mapped["example_inputs"].items()}
    return Checkpoint(
        factory=_typed(header, "factory", str, path),
        config=_typed(header, "config", dict, path),
        example_inputs=inputs,
        dynamic_shapes=_axes(header["dynamic_shapes"], path),
        assets={name: _asset(name, item, path) for name, item in mapped["assets"].items()},
        state=mapped["state_dict"],
    )


class _Mapper:
    """Tensors that lie in the archive, mapped from it, the same memory for the same record."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._records = {record.offset: record for record in archive.records.values()}
        self._digests: dict[int, str] = {}
        self._bytes = mmap.mmap(
            archive.file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )

    def map_all(self, section: Any) -> dict[str, MappedTensor]:
        if not isinstance(section, dict):
            _refuse(self._archive.path, "a section is not a mapping")
        return {name: self._map(name, facts) for name, facts in section.items()}

    def _map(self, name: str, facts: Any) -> MappedTensor:
        dtype, shape = self._form(name, facts)
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes == 0:
            return MappedTensor(tensor=torch.empty(shape, dtype=dtype), digest=_EMPTY)
        record = self._record(name, facts, nbytes, dtype.itemsize)
        flat = torch.frombuffer(self._bytes, dtype=torch.uint8, count=nbytes, offset=record.offset)
        if record.offset not in self._digests:
            self._digests[record.offset] = self._archive.digest(record)
        if dtype is torch.bool and int(flat.max()) > 1:
            self._refuse(name, "holds booleans that are neither 0 nor 1")
        tensor = flat.view(dtype).reshape(shape)
        return MappedTensor(tensor=tensor, digest=self._digests[record.offset])

    def _form(self, name: str, facts: Any) -> tuple[torch.dtype, tuple[int, ...]]:
        if not isinstance(facts, dict):
            self._refuse(name, "is not described")
        dtype = DTYPES.get(str(facts.get("dtype")))
        if dtype is None:
            self._refuse(name, f"has dtype {str(facts.get('dtype'))[:40]!r}")
        shape = facts.get("shape")
        if not isinstance(shape, list) or len(shape) > _MAX_RANK:
            self._refuse(name, "has no shape")
        if any(type(size) is not int or not 0 <= size <= _MAX_AXIS for size in shape):
            self._refuse(name, "has an axis of an absurd size")
        if math.prod(size for size in shape if size) > _MAX_AXIS:
            self._refuse(name, "has an absurd shape")
        return dtype, tuple(shape)

    def _record(self, name: str, facts: dict[str, Any], nbytes: int, itemsize: int) -> Record:
        """The record that is this tensor, whole and in row-major order."""
        if facts.get("storage_offset") != 0 or not _is_row_major(facts["shape"], facts["stride"]):
            self._refuse(name, "is a view into something larger")
        offset = facts.get("offset")
        record = self._records.get(offset) if type(offset) is int else None
        if record is None or not record.name.startswith("data/"):
            self._refuse(name, f"starts at byte {str(offset)[:40]}, where no tensor is stored")
        if record.size != nbytes or facts.get("nbytes") != nbytes:
            self._refuse(name, f"needs {nbytes} bytes, and its record has {record.size}")
        if record.offset % itemsize:
            self._refuse(name, "is not aligned to its elements")
        return record

    def _refuse(self, name: str, reason: str) -> NoReturn:
        _refuse(self._archive.path, f"tensor {name[:100]!r} {reason}")


# SHA-256 of no bytes.
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def _is_row_major(shape: list[int], stride: Any) -> bool:
    if not isinstance(stride, list) or len(stride) != len(shape):
        return False
    step = 1
    for size, given in zip(reversed(shape), reversed(stride), strict=True):
        # The stride of an axis of one element is never used.
        if size != 1 and given != step:
            return False
        step *= size
    return True


def _asset(name: str, item: MappedTensor, path: Path) -> bytes:
    if not is_asset_name(name):
        _refuse(path, f"an asset has the file name {name[:100]!r}")
    if item.tensor.dtype is not torch.uint8 or item.tensor.dim() != 1:
        _refuse(path, f"the asset {name!r} is not a row of bytes")
    return item.tensor.numpy().tobytes()


def _axes(value: Any, path: Path) -> Mapping[str, Mapping[int, str]] | None:
    try:
        return axes_from_json(value)
    except ValueError as error:
        raise refusal(path, f"its dynamic shapes are wrong: {error}") from error


def _typed(header: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    value = header[key]
    if not isinstance(value, kind):
        _refuse(path, f"its {key} is a {type(value).__name__}")
    return value


def _refuse(path: Path, reason: str) -> NoReturn:
    raise refusal(path, reason)
