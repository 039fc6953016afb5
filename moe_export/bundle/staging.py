"""A bundle is whole or absent: built beside its place, then renamed into it."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from moe_export.bundle.disk import (
    disk_errors,
    record_of,
    replace_file,
    sync_folder,
    sync_tree,
    write_file,
)
from moe_export.bundle.exchange import rename_exchange, rename_new
from moe_export.bundle.signals import undivided
from moe_export.errors import MoeExportError, UsageError
from moe_export.manifest import (
    FILE_NAME,
    EngineRecord,
    FileRecord,
    Manifest,
    Verdict,
    check_path,
)
from moe_export.runtime.verify import read_manifest, unlisted_entries


@contextmanager
def staging(output: Path, *, force: bool) -> Iterator[Path]:
    """An empty folder beside ``output`` to build a bundle in, gone when the block ends.

    ``publish`` moves it to ``output`` before that.  Folders that killed processes left are removed
    first.  However the block ends, by Ctrl-C too, nothing of the folder is left.  Raises
    ``UsageError`` where ``output`` may not be written.
    """
    output = Path(os.path.abspath(output))
    check_replaceable(output, force=force)
    if output.parent.exists() and not output.parent.is_dir():
        raise UsageError("the output's folder is a file", where=str(output.parent))
    place = output.with_name(f"{_prefix(output)}{os.getpid()}-{secrets.token_hex(4)}")
    lock = None
    try:
        with disk_errors(output.parent):
            output.parent.mkdir(parents=True, exist_ok=True)
            _sweep(output)
            place.mkdir()
        lock = _lock(place)
        yield place
    finally:
        with undivided():
            # After an exchange this holds the bundle that was replaced.
            shutil.rmtree(place, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def add_engines(place: Path, engines: Sequence[EngineRecord]) -> None:
    """Write down the engines that lie in ``place``, in place of those that were there before."""
    manifest = read_manifest(place)
    files = _without_plans(manifest)
    for engine in engines:
        files[check_path(engine.plan)] = record_of(place / engine.plan)
    made = replace(manifest, files=files, engines=tuple(engines))
    replace_file(place / FILE_NAME, made.to_json().encode())
    sync_tree(place)


def copy_to_build(bundle: Path, place: Path) -> None:
    """The bundle without its engines once more in the empty folder ``place``.

    Files are linked where that is possible: those of either are replaced, never written to.
    """
    manifest = read_manifest(bundle)
    files = _without_plans(manifest)
    for path in files:
        copy = place / check_path(path)
        with disk_errors(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(bundle / path, copy)
            except OSError:  # another file system, or one without links
                shutil.copyfile(bundle / path, copy)
    bare = replace(manifest, files=files, engines=())
    write_file(place, FILE_NAME, bare.to_json().encode())


def _without_plans(manifest: Manifest) -> dict[str, FileRecord]:
    plans = {engine.plan for engine in manifest.engines}
    return {path: record for path, record in manifest.files.items() if path not in plans}


def seal(place: Path, *, reports: Mapping[str, bytes], verdict: Verdict) -> None:
    """Add ``reports/<name>`` files to the bundle in ``place`` and write down its ``verdict``."""
    manifest = read_manifest(place)
    files = dict(manifest.files)
    for name, content in sorted(reports.items()):
        path = check_path(f"reports/{name}")
        (place / path).unlink(missing_ok=True)
        files[path] = write_file(place, path, content)
    sealed = replace(manifest, files=files, verdict=verdict)
    replace_file(place / FILE_NAME, sealed.to_json().encode())
    sync_tree(place)


def publish(place: Path, output: Path, *, force: bool) -> None:
    """Move the finished bundle from ``place`` to ``output``, which lies beside it, in one step.

    At every instant ``output`` is absent, the old bundle whole, or the new one whole.  Ctrl-C comes
    before this or after it.  Raises ``UsageError`` where something else has taken its place
    meanwhile.
    """
    output = Path(os.path.abspath(output))
    replacing = check_replaceable(output, force=force)
    with undivided(), disk_errors(output):
        if replacing:
            rename_exchange(place, output)
        else:
            _rename_to_free(place, output)
        sync_folder(output.parent)


def check_replaceable(output: Path, *, force: bool) -> bool:
    """Whether there is a bundle at ``output`` to replace.

    Raises ``UsageError`` for anything else there, and for a bundle unless ``force`` is set.
    """
    if not os.path.lexists(output):
        return False
    if not force:
        raise UsageError(
            "the output exists", where=str(output), hint="--force replaces an existing bundle"
        )
    reason = _why_not_a_bundle(output)
    if reason is not None:
        raise UsageError(
            f"the output is not a bundle and is left alone: {reason}",
            where=str(output),
            hint="choose another path with -o, or remove it yourself",
        )
    return True


def _why_not_a_bundle(path: Path) -> str | None:
    if path.is_symlink() or not path.is_dir():
        return "not a folder"
    try:
        stranger = next(unlisted_entries(path, read_manifest(path)), None)
    except MoeExportError as error:
        return error.message
    return None if stranger is None else f"its manifest does not list {stranger.name!r}"


def _rename_to_free(place: Path, output: Path) -> None:
    try:
        rename_new(place, output)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            "something was put at the output while the export ran",
            where=str(output),
            hint="choose another path with -o",
        ) from error


def _prefix(output: Path) -> str:
    return f".{output.name}.partial-"


def _lock(place: Path) -> int:
    """Hold ``place`` for as long as this process lives; the kernel lets go when it is killed."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):  # a file system without locks: the process id alone has to do
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _sweep(output: Path) -> None:
    """Remove what killed exports to the same ``output`` left behind.

    A folder is stale when its process is gone *and* nobody holds its lock: the first covers the
    moment before a new export has its lock, the second a process of another container.
    """
    pattern = re.compile(re.escape(_prefix(output)) + r"(\d+)-[0-9a-f]{8}")
    for path in output.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and not path.is_symlink() and not _alive(int(match[1])) and _unlocked(path):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _unlocked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    finally:
        os.close(descriptor)
    return True
