"""Files that the command line itself reads and writes."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from moe_export.errors import UnsafeInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moe_export.forms import Array

_HOW_TO_WRITE = "np.savez(path, name=array) writes one; arrays of Python objects are not read"


def write_file(path: str, content: bytes) -> None:
    """Put ``content`` at ``path``, whole or not at all; ``UsageError`` where that cannot be."""
    place = Path(path)
    partial = place.with_name(f".{place.name}.partial-{secrets.token_hex(4)}")
    try:
        if place.is_dir():
            raise IsADirectoryError(f"{place} is a folder")
        partial.write_bytes(content)
        os.replace(partial, place)
    except (OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"the file cannot be written: {_words(error)}", where=path) from error


def write_arrays(path: str, arrays: Mapping[str, Array]) -> None:
    """Put ``arrays`` at ``path`` as an ``.npz`` file."""
    import io

    import numpy as np

    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_file(path, content.getvalue())


def read_arrays(path: str) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name.

    Raises ``UsageError`` for a file that is not there or of another kind, ``UnsafeInputError`` for
    one that is damaged or holds Python objects, which are never unpickled.
    """
    import zipfile
    import zlib

    import numpy as np

    if not Path(path).is_file():
        raise UsageError("there is no such file of inputs", where=path)
    if not zipfile.is_zipfile(path):
        raise UsageError("not an .npz file", where=path, hint=_HOW_TO_WRITE)
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UnsafeInputError(
            f"the arrays cannot be read: {_words(error)}", where=path, hint=_HOW_TO_WRITE
        ) from error


def read_cases(path: str) -> dict[str, dict[str, Array]]:
    """The arrays of an ``.npz`` file, or of all in a folder, by the file's name without ``.npz``.

    Raises what ``read_arrays`` does, and ``UsageError`` for a folder without any.
    """
    folder = Path(path)
    if not folder.is_dir():
        return {folder.stem: read_arrays(path)}
    found = sorted(folder.glob("*.npz"))
    if not found:
        raise UsageError("the folder holds no .npz file", where=path, hint=_HOW_TO_WRITE)
    return {file.stem: read_arrays(str(file)) for file in found}


def files_in(path: str) -> list[Path]:
    """The files of a folder in order of name, hidden ones aside; ``UsageError`` for none."""
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=path)
    found = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    if not found:
        raise UsageError("the folder is empty", where=path)
    return found


def _words(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
