"""Tensors of safetensors files, each read from its place in the file when it is needed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import torch

from moe_export.errors import UnsafeInputError
from moe_export.lazy import LazyTensor
from moe_export.ondisk import InFile, OpenFile

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH = struct.Struct("<Q")


def read_shards(files: Iterable[Path]) -> dict[str, LazyTensor]:
    """The tensors of the files by name.  *Requires* that they are whole, and reads headers alone.

    Raises ``UnsafeInputError`` for a name that two files hold, and for numbers that a model cannot
    have.
    """
    found: dict[str, LazyTensor] = {}
    for path in files:
        for name, tensor in _tensors(path):
            if name in found:
                raise UnsafeInputError(f"the tensor {name!r} is in two files", where=str(path))
            found[name] = tensor
    return found


def _tensors(path: Path) -> Iterable[tuple[str, LazyTensor]]:
    file = OpenFile.open(path)
    (length,) = _LENGTH.unpack(file.read(0, _LENGTH.size))
    header = json.loads(file.read(_LENGTH.size, length))
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        dtype = _DTYPES.get(facts["dtype"])
        if dtype is None:
            raise UnsafeInputError(
                f"the tensor {name!r} holds {facts['dtype']}, and weights are floats or integers",
                where=str(path),
                hint="export the model that was quantised; --precision quantises its experts",
            )
        offset = _LENGTH.size + length + facts["data_offsets"][0]
        yield name, LazyTensor(InFile(file, offset, tuple(facts["shape"]), dtype))
