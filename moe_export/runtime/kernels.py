"""The native kernels for ONNX Runtime: where their library is, and whether it is the right one.

Native code comes with this package or from where the user says, never out of a bundle.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

from moe_export.errors import MissingEnvironmentError

if TYPE_CHECKING:
    import onnxruntime

# Of the packed weights and the ops' attributes: what moe_export_ort_abi() answers.
ABI = 1

# From the plainest to the best; MOE_EXPORT_CPU names one of them.
LEVELS = ("portable", "avx2", "avx512", "avx512_bf16", "avx512_amx")

_VARIABLE = "MOE_EXPORT_ORT_LIBRARY"
_PACKAGED = Path(__file__).parents[1] / "native" / "libmoe_export_ort.so"
_HINT = "export with --target standard to run without native kernels"


def library_path() -> Path:
    """The library: what ``MOE_EXPORT_ORT_LIBRARY`` names, else the package's own.

    Raises ``MissingEnvironmentError`` if there is no such file, or it cannot be loaded or is of
    another ABI than this package.
    """
    path = _candidate()
    _library(path)
    return path


def register(options: onnxruntime.SessionOptions) -> None:
    """Give sessions made with ``options`` the kernels of the ``moe_export`` ops.

    Raises ``MissingEnvironmentError`` as ``library_path`` does, or if ``MOE_EXPORT_CPU`` names a
    level that is not to be had, or ONNX Runtime does not accept the library.
    """
    path = library_path()
    level()
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:
        raise MissingEnvironmentError(
            f"ONNX Runtime does not accept the native kernels: {str(error).partition(chr(10))[0]}",
            where=str(path),
            hint=f"pip install --upgrade onnxruntime, or {_HINT}",
        ) from error


def level() -> str:
    """The level of CPU whose kernels run: the best of this machine, or what MOE_EXPORT_CPU names.

    Raises ``MissingEnvironmentError`` where that is not to be had.
    """
    ask = _library(_candidate()).moe_export_ort_isa
    ask.restype = ctypes.c_char_p
    name: bytes | None = ask()
    if name is None:
        wanted = os.environ.get("MOE_EXPORT_CPU", "")
        raise MissingEnvironmentError(
            f"no native kernels for the level {wanted!r} on this machine",
            where="MOE_EXPORT_CPU",
            hint=f"it may be one of {', '.join(levels())}",
        )
    return name.decode()


def levels() -> tuple[str, ...]:
    """The levels that this machine can run, from the plainest to the best."""
    has = _library(_candidate()).moe_export_ort_has_isa
    has.argtypes, has.restype = [ctypes.c_char_p], ctypes.c_int
    return tuple(name for name in LEVELS if has(name.encode()))


def _candidate() -> Path:
    named = os.environ.get(_VARIABLE)
    path = Path(named) if named else _PACKAGED
    if path.is_file():
        return path.resolve()
    if named:
        raise MissingEnvironmentError(
            "the library of native kernels is not there",
            where=f"{_VARIABLE}={named}",
            hint=f"unset {_VARIABLE} to use the package's own, or {_HINT}",
        )
    raise MissingEnvironmentError(
        "this installation has no native kernels for ONNX Runtime",
        where=str(path),
        hint=f"build them (pip install ., or make native in a checkout), or {_HINT}",
    )


def _library(path: Path) -> ctypes.CDLL:
    """The loaded library, if it is of this ABI."""
    try:
        library = ctypes.CDLL(str(path))
        ask = library.moe_export_ort_abi
    except (OSError, AttributeError) as error:
        raise MissingEnvironmentError(
            f"the native kernels cannot be loaded: {error}",
            where=str(path),
            hint=f"reinstall moe-export, or {_HINT}",
        ) from error
    ask.restype = ctypes.c_uint32
    if (abi := int(ask())) != ABI:
        raise MissingEnvironmentError(
            f"the native kernels have ABI {abi}, this moe-export needs {ABI}",
            where=str(path),
            hint=f"reinstall moe-export, or {_HINT}",
        )
    return library
