"""Numbers in files: tensors at their places, and what is computed once and read often."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe_export.errors import DiskFullError, UnsafeInputError
from moe_export.lazy import LazyTensor, real
from moe_export.lazy.cores import each_on_its_own_core
from moe_export.lazy.layout import reader_of
from moe_export.lazy.tensors import steps
from moe_export.moe.quantize import Precision, facts, quantize_to_bytes

# Numbers that a core reads at a time, if rows of the leading axis are not more.
_PIECE_BYTES = 1 << 22


class OpenFile:
    """An open file that is read at places, by several threads if need be.

    Not mapped: pages of a mapping count as this process's memory for as long as it exists.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    @classmethod
    def open(cls, path: Path) -> OpenFile:
        """The file at ``path``."""
        return cls(os.open(path, os.O_RDONLY), str(path))

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytearray:
        """So many bytes; raises ``UnsafeInputError`` where the file is too short for them."""
        made = bytearray(length)
        self.read_into(memoryview(made), offset)
        return made

    def read_into(self, target: memoryview, offset: int) -> None:
        """As ``read``, into memory that is there."""
        while target:
            count = os.preadv(self._descriptor, [target], offset)
            if count == 0:
                raise UnsafeInputError("the file became shorter", where=self._name)
            target, offset = target[count:], offset + count

    def write(self, numbers: Any, offset: int) -> None:
        """Bytes at a place.  Raises ``DiskFullError`` where the disk is full."""
        target = memoryview(numbers.data)
        try:
            while target:
                count = os.pwrite(self._descriptor, target, offset)
                target, offset = target[count:], offset + count
        except OSError as error:
            raise DiskFullError(
                f"quantised weights cannot be kept on disk: {error.strerror}",
                where=self._name,
                hint="free some space; they lie beside the output of a Transformers directory, "
                "else where TMPDIR says",
            ) from error


@dataclass(frozen=True)
class InFile:
    """The reader of a tensor at an offset of a file, in C order and little-endian."""

    file: OpenFile
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        """``[stop - start, …]``, or all of a tensor without axes."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        made = torch.empty((stop - start, *self.shape[1:]) if self.shape else (), dtype=self.dtype)
        flat = made.reshape(-1).view(torch.uint8).numpy()
        self.file.read_into(flat.data, self.offset + start * row)
        return made

    def within(self, index: int, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of what stands at an index of the leading axis."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        entry = InFile(self.file, self.offset + index * size, self.shape[1:], self.dtype)
        return entry.rows(start, stop)


@dataclass
class Spool:
    """Quantised weights, each computed once, in a file that goes when the process does."""

    folder: Path | None = None
    """Where the file is; ``None`` is where the system has temporary files."""

    _known: dict[tuple[str, Precision], dict[str, Tensor]] = field(default_factory=dict)
    _file: OpenFile | None = None
    _end: int = 0

    def quantized(self, name: str, weight: Tensor, precision: Precision) -> Mapping[str, Tensor]:
        """``values``, ``scales`` and ``zeros`` of ``weight [.., rows, columns]``, what it has.

        int4 comes as int8 that holds -8..7.  Weights of one name are one weight.  Raises
        ``ValueError`` where the precision cannot hold it, ``DiskFullError`` for a full disk.
        """
        key = (name, precision)
        if key not in self._known:
            self._known[key] = self._written(weight, precision)
        return self._known[key]

    def _written(self, weight: Tensor, precision: Precision) -> dict[str, Tensor]:
        file = self._file = self._file or self._new_file()
        readers = {}
        for part, (shape, dtype) in facts(tuple(weight.shape), precision).items():
            readers[part] = InFile(file, self._end, shape, _torch_dtype(dtype))
            self._end += math.prod(shape) * readers[part].dtype.itemsize
        source = reader_of(weight.detach())

        def keep(rows: tuple[int, int]) -> None:
            start, stop = rows
            made = quantize_to_bytes(_numpy(real(source.rows(start, stop))), precision)
            for part, reader in readers.items():
                row = math.prod(reader.shape[1:]) * reader.dtype.itemsize
                file.write(_bytes(getattr(made, part)), reader.offset + start * row)

        each_on_its_own_core(keep, list(steps(source, _PIECE_BYTES)))
        return {part: LazyTensor(reader) for part, reader in readers.items()}

    def _new_file(self) -> OpenFile:
        folder = self.folder or tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as made:
            return OpenFile(os.dup(made.fileno()), str(folder))


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    name = "int8" if dtype.name == "int4" else dtype.name
    made: torch.dtype = getattr(torch, name)
    return made


def _numpy(tensor: Tensor) -> Any:
    """The same numbers, in bfloat16 without a copy, else as float32."""
    if tensor.dtype is not torch.bfloat16:
        return tensor.float().numpy()
    import ml_dtypes

    return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _bytes(array: Any) -> Any:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
