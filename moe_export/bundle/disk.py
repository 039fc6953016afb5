"""Writing files that are on the disk when they are said to be, with their digests."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from moe_export.errors import DiskFullError, UsageError
from moe_export.manifest import PIECE_BYTES, FileRecord

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK_BYTES = 1 << 22
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A full disk as ``DiskFullError``, a place one may not write to as ``UsageError``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"the disk is full: {error.strerror}",
                where=str(path),
                hint="free some space, or give -o a path on another disk",
            ) from error
        if error.errno in _FORBIDDEN:
            raise UsageError(
                f"cannot write here: {error.strerror}",
                where=str(path),
                hint="give -o a path in a folder that you may write to",
            ) from error
        raise


class Digests:
    """The SHA-256 and size of what passes by, and those of its pieces."""

    def __init__(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._pieces: list[str] = []
        self._piece = hashlib.sha256()

    def update(self, content: bytes | memoryview) -> None:
        left = memoryview(content)
        while len(left):
            part = left[: PIECE_BYTES - self.size % PIECE_BYTES]
            self._add(part)
            left = left[len(part) :]

    def _add(self, part: memoryview) -> None:
        """What does not reach beyond the end of a piece."""
        self._digest.update(part)
        if self.size >= PIECE_BYTES:  # before, the piece is the file
            self._piece.update(part)
        self.size += len(part)
        if self.size % PIECE_BYTES == 0:
            self._pieces.append(self._digest_of_piece())
            self._piece = hashlib.sha256()

    def _digest_of_piece(self) -> str:
        return (self._piece if self.size > PIECE_BYTES else self._digest).hexdigest()

    @property
    def record(self) -> FileRecord:
        """Of all that passed so far."""
        pieces = list(self._pieces)
        if self.size % PIECE_BYTES:
            pieces.append(self._digest_of_piece())
        return FileRecord(
            sha256=self._digest.hexdigest(),
            bytes=self.size,
            pieces=tuple(pieces) if len(pieces) > 1 else (),
        )


class HashedFile:
    """A new file that knows its digests without being read again; synced when closed.

    Raises ``FileExistsError`` where there is a file already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests = Digests()

    def __enter__(self) -> Self:
        with disk_errors(self._path):
            self._file = self._path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None
    ) -> None:
        with disk_errors(self._path), self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    def write(self, content: bytes | memoryview) -> None:
        with disk_errors(self._path):
            self._file.write(content)
        self._digests.update(content)

    def pad_to(self, alignment: int) -> int:
        """Write zeros up to a multiple of ``alignment``, which is returned."""
        self.write(bytes(-self._digests.size % alignment))
        return self._digests.size

    @property
    def record(self) -> FileRecord:
        """What was written so far."""
        return self._digests.record


def record_of(path: Path) -> FileRecord:
    """The record of a file that another program wrote, which is synced here."""
    digests = Digests()
    with disk_errors(path), path.open("rb") as file:
        while content := file.read(_CHUNK_BYTES):
            digests.update(content)
        os.fsync(file.fileno())
    return digests.record


def write_file(root: Path, name: str, content: bytes) -> FileRecord:
    """Write a new file ``name`` (a checked path of a bundle) under ``root``."""
    path = root / name
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with HashedFile(path) as file:
        file.write(content)
    return file.record


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` so that a reader sees the old or the new, never a part."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    write_file(beside.parent, beside.name, content)
    with disk_errors(path):
        os.replace(beside, path)
        sync_folder(path.parent)


def sync_tree(root: Path) -> None:
    """Make the names of all files and folders under ``root`` survive a power cut."""
    with disk_errors(root):
        for folder, _, _ in os.walk(root):
            sync_folder(Path(folder))


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
