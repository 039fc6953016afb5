"""The weights of a component in one file, each read and written in pieces before the next."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe_export.bundle.disk import HashedFile, disk_errors
from moe_export.errors import MemoryBudgetError
from moe_export.forms import Array, Weight
from moe_export.manifest import FileRecord

# A page of memory on x86 and most ARM: ONNX Runtime can map a weight that begins on one.
ALIGNMENT = 4096


@dataclass(frozen=True)
class Extent:
    """Where a weight lies, in bytes of a data file."""

    location: str
    """The file's name."""

    offset: int
    length: int

    def part(self, start: int, length: int) -> Extent:
        """Some of its bytes; ``ValueError`` where it does not hold them."""
        if start + length > self.length:
            raise ValueError(f"{length} bytes at {start} of {self.length}")
        return Extent(self.location, self.offset + start, length)


def write_weights(
    weights: Mapping[str, Weight], path: Path
) -> tuple[FileRecord, dict[str, Extent]]:
    """Write ``weights`` to ``path`` in order of name, each at a multiple of ``ALIGNMENT``.

    Values are little-endian and in C order, as ONNX says.  One weight is in memory at a time.
    Raises ``MemoryBudgetError`` before the first byte where the disk is too small for all.
    """
    _check_space(weights, path)
    extents = {}
    with HashedFile(path) as file:
        for name in sorted(weights):
            offset = file.pad_to(ALIGNMENT)
            for content in _bytes(name, weights[name]):
                file.write(content)
                del content
            extents[name] = Extent(path.name, offset, nbytes(weights[name]))
    return file.record, extents


def _check_space(weights: Mapping[str, Weight], path: Path) -> None:
    needed = sum(nbytes(weight) + ALIGNMENT for weight in weights.values())
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise MemoryBudgetError(
            f"the weights need up to {needed} bytes of disk, {free} are free",
            where=str(path.parent),
            hint="free some space, or give -o a path on another disk",
        )


def nbytes(weight: Weight) -> int:
    """The bytes of a weight, from its facts alone."""
    elements = math.prod(weight.shape)
    return -(-elements // 2) if _is_int4(weight) else elements * weight.dtype.itemsize


def _is_int4(weight: Weight) -> bool:
    # ml_dtypes has int4; where no weight is one it need not be here.
    return weight.dtype.name == "int4"


def _bytes(name: str, weight: Weight) -> Iterator[memoryview]:
    """All of a weight's bytes, a piece at a time."""
    count = 0
    for array in _pieces(weight):
        count += array.size
        if array.dtype != weight.dtype or array.shape[1:] != weight.shape[1:]:
            raise _unlike(name, weight, f"{array.dtype} {array.shape}")
        if _is_int4(weight):
            yield _in_halves(array).data
            continue
        if sys.byteorder == "big":
            array = array.byteswap()
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    if count != math.prod(weight.shape):
        raise _unlike(name, weight, f"{count} numbers")


def _pieces(weight: Weight) -> Iterator[Array]:
    """The weight in parts; whole, where two of its numbers that share a byte might be parted."""
    if _is_int4(weight) and math.prod(weight.shape[1:]) % 2:
        return iter([weight.read()])
    return weight.in_pieces()


def _unlike(name: str, weight: Weight, found: str) -> ValueError:
    return ValueError(
        f"weight {name!r} was announced as {weight.dtype} {weight.shape} and read as {found}"
    )


def _in_halves(array: Array) -> Array:
    """Two int4 to a byte, the first in the low half; an odd one has 0 beside it."""
    numbers = array.astype(np.int8).reshape(-1).view(np.uint8)
    whole = np.zeros(-(-numbers.size // 2), np.uint8)
    whole |= numbers[0::2] & 15
    whole[: numbers.size // 2] |= numbers[1::2] << 4
    return whole
