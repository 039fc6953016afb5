"""Tensors by name in one file of the safetensors format, written and read with NumPy alone.

A file is the header's length (8 bytes, little-endian), the header (JSON: of each tensor its dtype,
its shape and where its bytes begin and end, counted from behind the header; text under
``__metadata__``), and the bytes.  They follow one another without a gap.  What is written is, byte
for byte, what the format's own library writes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moe_export.errors import UnsafeInputError
from moe_export.forms import Array
from moe_export.strict_json import decode, parse

# In the library's order: it writes tensors of the last first, so that each lies aligned.
_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_DTYPES = {name: np.dtype(dtype) for name, dtype in _NAMES.items()}
_CODES = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER = list(_NAMES)

_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
# As the library: a header of more than 100 MB is an attack.
_MAX_HEADER = 100_000_000
_ALIGNMENT = 8


def tensor_file(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The file of ``tensors`` and ``metadata``; equal ones give equal bytes.

    Raises ``ValueError`` for a dtype that it cannot hold.
    """
    codes = {name: _code(name, tensor) for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: (-_ORDER.index(codes[name]), name))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": codes[name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([_LENGTH.pack(len(text)), text, *(tensors[name].tobytes() for name in names)])


def _code(name: str, tensor: Array) -> str:
    code = _CODES.get(tensor.dtype)
    if code is None:
        raise ValueError(f"tensor {name!r} holds {tensor.dtype}, which the format has no name for")
    return code


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


class TensorFile(Mapping[str, Array]):
    """The tensors of a file, none of them read until it is asked for, and none kept.

    ``UnsafeInputError`` for a file that is none, or that is no longer what it was.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            header, begin, size = _header(path)
            self.metadata: Mapping[str, str] = header.pop(_METADATA, {})
            if not _is_text(self.metadata):
                raise ValueError("the metadata is not text by name")
            self._facts = {
                name: decode(_Facts, facts, str(path), name) for name, facts in header.items()
            }
            _check(self._facts, size - begin)
        except ValueError as error:
            raise UnsafeInputError(f"not a safetensors file: {error}", where=str(path)) from error
        self._begin = begin

    def __getitem__(self, name: str) -> Array:
        facts = self._facts[name]
        made = np.empty(facts.shape, _DTYPES[facts.dtype])
        with self._path.open("rb") as file:
            file.seek(self._begin + facts.data_offsets[0])
            count = file.readinto(made.reshape(-1).view(np.uint8).data)
        if count != made.nbytes:
            raise UnsafeInputError("the file changed while it was read", where=str(self._path))
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where it ends, and where the file does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_LENGTH.size)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH.size or length > min(size - _LENGTH.size, _MAX_HEADER):
            raise UnsafeInputError(
                f"the safetensors header says {length} bytes, the file has {size}", where=str(path)
            )
        text = file.read(length)
    try:
        header = parse(text, str(path))
    except UnsafeInputError as error:
        raise ValueError(error.message) from error
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, _LENGTH.size + length, size


def _is_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _check(tensors: Mapping[str, _Facts], size: int) -> None:
    """Each tensor's bytes are as many as its shape says, and all of them lie without a gap."""
    end = 0
    for name, facts in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        dtype = _DTYPES.get(facts.dtype)
        if dtype is None:
            raise ValueError(f"tensor {name[:200]!r} is of the unknown type {facts.dtype[:80]!r}")
        nbytes = math.prod(facts.shape) * dtype.itemsize
        if min(facts.shape, default=0) < 0 or facts.data_offsets != (end, end + nbytes):
            raise ValueError(f"tensor {name[:200]!r} does not lie where its bytes are")
        end += nbytes
    if end != size:
        raise ValueError(f"tensors of {end} bytes in a file with {size}")
