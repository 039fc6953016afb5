"""Renames of folders that replace nothing by accident and leave no moment in between.

Linux has ``renameat2`` (renameat2(2), since 3.15): ``RENAME_EXCHANGE`` swaps two names and
``RENAME_NOREPLACE`` fails where the new name is taken.  Where the system or the file system lacks
it, the fallbacks below hold the same promise with one cost each, written beside them.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2

# No such system call; flags that this file system does not know.
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def rename_new(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, which must not exist (``FileExistsError``).

    The fallback would replace an empty folder that appeared in the last microseconds.
    """
    if _renameat2(source, target, _RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def rename_exchange(source: Path, target: Path) -> None:
    """Swap the folders ``source`` and ``target``: what was at one name is then at the other.

    In the fallback ``target`` is absent between two renames; whoever is killed just there leaves
    both folders under temporary names, and the next export removes them.
    """
    if _renameat2(source, target, _RENAME_EXCHANGE):
        return
    aside = source.with_name(f"{source.name[:-8]}{os.urandom(4).hex()}")
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except OSError:
        os.rename(aside, target)
        raise
    os.rename(aside, source)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Whether the system could do it; ``OSError`` where it could and it failed."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    function.argtypes = (ctypes.c_int, ctypes.c_char_p) * 2 + (ctypes.c_uint,)
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))
