"""Whether a folder is exactly what its manifest says: every check that ``Bundle.open`` makes.

Nothing in a bundle is trusted before it passed here.  The checks go from cheap to dear: names and
kinds of all files, then sizes, then digests, then where the graphs keep their weights.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from moe_export.errors import UnsafeInputError, UsageError
from moe_export.manifest import (
    FILE_NAME,
    MAX_BYTES,
    PIECE_BYTES,
    ComponentRecord,
    FileRecord,
    Manifest,
)
from moe_export.runtime.wire import external_data

# Protocol Buffers end at 2 GiB.
_MAX_GRAPH_BYTES = 2**31 - 1

_DAMAGED = "the bundle is damaged or was changed: fetch it again, or export the model again"


def find_bundle(path: str | os.PathLike[str]) -> Path:
    """The folder at ``path``, resolved, or ``UsageError`` where there is no bundle."""
    root = Path(path)
    if not root.is_dir():
        what = "a bundle is a folder, not a file" if root.exists() else "there is no bundle here"
        raise UsageError(what, where=str(root), hint="moe-export MODEL -o BUNDLE makes one")
    if not os.path.lexists(root / FILE_NAME):
        raise UsageError(
            f"not a bundle: it has no {FILE_NAME}",
            where=str(root),
            hint="moe-export MODEL -o BUNDLE makes one",
        )
    return root.resolve()


def read_manifest(root: Path) -> Manifest:
    """The manifest of the bundle at ``root``, read strictly."""
    path = root / FILE_NAME
    size = _regular(path).st_size
    if size > MAX_BYTES:
        raise UnsafeInputError(f"a manifest of more than {MAX_BYTES} bytes", where=str(path))
    return Manifest.from_json(read_bytes(path, size), str(path))


def check_files(root: Path, manifest: Manifest, *, digests: bool) -> None:
    """Refuse a bundle whose files are not exactly the listed ones, as they were written."""
    unlisted = next(unlisted_entries(root, manifest), None)
    if unlisted is not None:
        raise UnsafeInputError("not listed in the manifest", where=str(unlisted), hint=_DAMAGED)
    for path, record in manifest.files.items():
        check_size(root / path, record)
    if digests:
        _check_digests({root / path: record for path, record in manifest.files.items()})
    for component in manifest.components.values():
        sizes = {path: manifest.files[path].bytes for path in component.data_files}
        check_graphs(root, component, sizes)


def unlisted_entries(root: Path, manifest: Manifest) -> Iterator[Path]:
    """What lies under ``root`` and is neither a listed file nor a folder that leads to one."""
    folders = {str(parent) for path in manifest.files for parent in PurePosixPath(path).parents}
    listed = {FILE_NAME, *manifest.files}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if name in folders and entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                elif name not in listed:
                    yield root / name


def check_size(path: Path, record: FileRecord) -> None:
    """Refuse anything but a regular file of the recorded size."""
    size = _regular(path).st_size
    if size != record.bytes:
        raise UnsafeInputError(
            f"the file has {size} bytes, the manifest says {record.bytes}",
            where=str(path),
            hint=_DAMAGED,
        )


def _check_digests(files: Mapping[Path, FileRecord]) -> None:
    """Compare all digests, those of the pieces of large files a core each."""
    parts = [part for path, record in files.items() for part in _parts(path, record)]
    with ThreadPoolExecutor(_cores(), "moe-export-verify") as workers:
        made = workers.map(lambda part: _digest(part.path, part.offset, part.length), parts)
        for part, digest in zip(parts, made, strict=True):
            _compare(part.path, digest, part.sha256, part.offset if part.is_piece else None)


@dataclass(frozen=True)
class _Part:
    """Bytes of a file that have a digest of their own."""

    path: Path
    offset: int
    length: int
    sha256: str
    is_piece: bool


def _parts(path: Path, record: FileRecord) -> list[_Part]:
    if not record.pieces:
        return [_Part(path, 0, record.bytes, record.sha256, is_piece=False)]
    return [
        _Part(path, number * PIECE_BYTES, PIECE_BYTES, sha256, is_piece=True)
        for number, sha256 in enumerate(record.pieces)
    ]


def _cores() -> int:
    available = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(available(0)) if available else os.cpu_count() or 1


def _digest(path: Path, offset: int, length: int) -> str:
    """Of so many bytes of a file from an offset, or of fewer where it ends."""
    digest, buffer = hashlib.sha256(), bytearray(2**20)
    with _open(path) as file:
        file.seek(offset)
        left = length
        while count := file.readinto(memoryview(buffer)[:left]):
            digest.update(memoryview(buffer)[:count])
            left -= count
    return digest.hexdigest()


def _compare(path: Path, digest: str, recorded: str, offset: int | None = None) -> None:
    if digest != recorded:
        what = "the file's SHA-256" if offset is None else f"the SHA-256 from byte {offset}"
        raise UnsafeInputError(
            f"{what} is {digest}, the manifest says {recorded}",
            where=str(path),
            hint=_DAMAGED,
        )


def read_checked(path: Path, record: FileRecord) -> bytes:
    """The content of ``path``, if it still is what the manifest recorded."""
    check_size(path, record)
    content = read_bytes(path, record.bytes)
    _compare(path, hashlib.sha256(content).hexdigest(), record.sha256)
    return content


def check_graphs(root: Path, component: ComponentRecord, sizes: Mapping[str, int]) -> None:
    """Refuse a graph that reads outside the component's data files, of these sizes by path."""
    for name in dict.fromkeys(component.graphs):
        path = root / name
        size = _regular(path).st_size
        if size > _MAX_GRAPH_BYTES:
            raise UnsafeInputError("a graph of 2 GiB or more", where=str(path))
        try:
            _check_references(read_bytes(path, size), name, sizes)
        except ValueError as error:
            raise UnsafeInputError(
                f"not an acceptable ONNX graph: {error}", where=str(path)
            ) from error


def _check_references(graph: bytes, graph_path: str, sizes: Mapping[str, int]) -> None:
    folder = PurePosixPath(graph_path).parent
    paths = {path.name: str(path) for path in map(PurePosixPath, sizes) if path.parent == folder}
    for reference in external_data(graph):
        # Compared as text, so that "../onnx/x" and ONNX Runtime's own magic names (the address
        # of memory is one) are refused with all others.
        path = paths.get(reference.location)
        if path is None:
            raise ValueError(
                f"tensor {reference.tensor[:80]!r} reads {reference.location[:200]!r},"
                f" not the component's own {' or '.join(map(repr, sizes))}"
            )
        if reference.offset + reference.length > sizes[path]:
            raise ValueError(
                f"tensor {reference.tensor[:80]!r} reads {reference.length} bytes at"
                f" {reference.offset} of {path!r}, which has {sizes[path]}"
            )


def read_bytes(path: Path, size: int) -> bytes:
    """Exactly ``size`` bytes, all that the file holds."""
    with _open(path) as file:
        content = file.read(size + 1)
    if len(content) != size:
        raise UnsafeInputError("the file changed while it was read", where=str(path))
    return content


def _open(path: Path) -> BufferedReader:
    """``path`` for reading, never through a symbolic link put there since it was looked at."""
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb")


def _regular(path: Path) -> os.stat_result:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        raise UnsafeInputError("the file is missing", where=str(path), hint=_DAMAGED) from None
    if stat.S_ISREG(facts.st_mode):
        return facts
    what = "a symbolic link" if stat.S_ISLNK(facts.st_mode) else "not a regular file"
    raise UnsafeInputError(f"{what}, which a bundle never holds", where=str(path), hint=_DAMAGED)
