"""A PyTorch file as what it is: a zip archive of stored records, each with an offset and a size.

Nothing is unpickled here.  The directory is read with bounds on everything, because every later
offset into the file is compared with it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from moe_export.errors import UnsafeInputError, UnsupportedError, UsageError

# The pickle of 100 000 tensors is smaller than 20 MB.
_MAX_PICKLE = 128 << 20
_MAX_RECORDS = 2_000_000
_CHUNK = 1 << 20

# What the standard library's reader raises on hostile directories, found by flipping bytes.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    OSError,
    OverflowError,
    ValueError,
)

# The first bytes of torch.save before PyTorch 1.6: protocol 2 and a magic number.
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True)
class Record:
    """Where one record's bytes lie in the file."""

    name: str
    offset: int
    size: int
    crc32: int


class Archive:
    """An open PyTorch file and the records in it, by their names below the archive's folder."""

    def __init__(self, path: Path, file: BinaryIO, records: Mapping[str, Record]) -> None:
        self.path = path
        self.file = file
        self.records = records

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()

    def digest(self, record: Record) -> str:
        """SHA-256 of a record's bytes, read in one pass that also checks their CRC-32."""
        sha256, crc32 = hashlib.sha256(), 0
        for start in range(0, record.size, _CHUNK):
            count = min(_CHUNK, record.size - start)
            chunk = os.pread(self.file.fileno(), count, record.offset + start)
            crc32 = zlib.crc32(chunk, crc32)
            sha256.update(chunk)
        if crc32 != record.crc32:
            raise UnsafeInputError(
                f"the file is damaged: record {record.name[:100]!r} fails its checksum",
                where=str(self.path),
                hint="copy or download it again",
            )
        return sha256.hexdigest()


class LegacyFileError(Exception):
    """The file was written by ``torch.save`` before it wrote zip archives."""


def open_archive(path: Path) -> Archive:
    """Open the PyTorch file at ``path`` and read its directory.

    For every record the bytes lie inside the file, and no two records share any.  Raises
    ``UsageError`` if there is no such file, ``LegacyFileError`` for the format of old,
    ``UnsupportedError`` for a graph that PyTorch stored, and ``UnsafeInputError`` for anything
    else that is not a whole archive of stored records.
    """
    file = _open(path)
    try:
        records = _read_directory(file, path)
        archive = Archive(path, file, records)
        archive.digest(records["data.pkl"])
    except BaseException:
        file.close()
        raise
    return archive


def _open(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError("the model is not a regular file", where=str(path))
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read the model: {error.strerror}", where=str(path)) from error


def _read_directory(file: BinaryIO, path: Path) -> dict[str, Record]:
    size = os.fstat(file.fileno()).st_size
    if os.pread(file.fileno(), len(_LEGACY), 0) == _LEGACY:
        raise LegacyFileError
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except _ZIP_ERRORS as error:
        raise _unreadable(path, f"not a whole zip archive ({error})") from error
    if not 0 < len(infos) <= _MAX_RECORDS:
        raise _unreadable(path, f"a zip archive of {len(infos)} records")
    folder = infos[0].filename.partition("/")[0] + "/"
    records: dict[str, Record] = {}
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        record = _read_record(file, info, folder, path)
        if info.header_offset < position or record.offset + record.size > min(end, size):
            raise _unreadable(path, f"record {record.name[:100]!r} lies outside its place")
        if record.name in records:
            raise _unreadable(path, f"two records are named {record.name[:100]!r}")
        records[record.name] = record
        position = record.offset + record.size
    return _require_pytorch(records, file, path)


def _read_record(file: BinaryIO, info: zipfile.ZipInfo, folder: str, path: Path) -> Record:
    name = info.filename
    if not name.startswith(folder):
        raise _unreadable(path, f"record {name[:100]!r} is not in the folder {folder[:100]!r}")
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not stored or info.flag_bits & 0x1:
        raise _unreadable(path, f"record {name[:100]!r} is compressed or encrypted")
    header = os.pread(file.fileno(), 30, info.header_offset) if info.header_offset >= 0 else b""
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise _unreadable(path, f"record {name[:100]!r} has no header")
    name_size, extra_size = struct.unpack("<HH", header[26:30])
    offset = info.header_offset + 30 + name_size + extra_size
    return Record(name.removeprefix(folder), offset, info.file_size, info.CRC)


def _require_pytorch(records: dict[str, Record], file: BinaryIO, path: Path) -> dict[str, Record]:
    if "constants.pkl" in records or "archive_format" in records:
        raise UnsupportedError(
            "the file is a TorchScript or torch.export archive, which holds a graph and no module",
            where=str(path),
            hint="export from the module that it was made from, with moe_export.save_checkpoint",
        )
    if "data.pkl" not in records:
        raise _unreadable(path, "a zip archive that torch.save did not write")
    if records["data.pkl"].size > _MAX_PICKLE:
        raise _unreadable(path, f"its pickle is larger than {_MAX_PICKLE >> 20} MiB")
    order = records.get("byteorder")
    if order and os.pread(file.fileno(), min(order.size, 16), order.offset) != b"little":
        raise _unreadable(path, "its tensors are not little-endian")
    return records


def _unreadable(path: Path, reason: str) -> UnsafeInputError:
    return UnsafeInputError(
        f"the file cannot be read safely: {reason}",
        where=str(path),
        hint="a model is a file written by moe_export.save_checkpoint; was it copied whole?",
    )
