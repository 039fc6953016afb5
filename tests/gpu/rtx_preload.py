"""Load TensorRT-RTX so that its ONNX parser survives the first plugin node.

The parser opens ``libtensorrt_rtx.so``, but the wheel ships ``libtensorrt_rtx.so.1`` alone; where
the first is not found the process is aborted.  A library that is loaded already is found by the
name that it gives itself: so one with nothing in it goes by the missing name and needs the real
one, in which the dynamic linker then finds every symbol that is asked of it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import struct
import tempfile
from pathlib import Path

_MACHINES = {"x86_64": 62, "aarch64": 183}
# Of the ELF specification: https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html
_HEADER, _SEGMENT, _DYNAMIC, _SYMBOL = 64, 56, 16, 24
_LOAD, _DYNAMIC_SEGMENT, _STACK = 1, 2, 0x6474E551
_READ_WRITE = 6
_NEEDED, _HASH, _STRINGS, _SYMBOLS, _STRINGS_SIZE, _SYMBOL_SIZE, _NAME = 1, 4, 5, 6, 10, 11, 14


def empty_library(name: str, needed: str, machine: str) -> bytes:
    """An ELF shared library without code, called ``name``, that needs the library ``needed``."""
    strings = b"\0" + name.encode() + b"\0" + needed.encode() + b"\0"
    symbols = bytes(_SYMBOL)
    table = struct.pack("<IIII", 1, 1, 0, 0)  # one bucket, one chain, nothing in them
    at_dynamic = _HEADER + 3 * _SEGMENT
    at_symbols = at_dynamic + 8 * _DYNAMIC
    at_table = at_symbols + len(symbols)
    at_strings = at_table + len(table)
    size = at_strings + len(strings)
    entries = (
        (_NEEDED, strings.index(needed.encode())),
        (_NAME, 1),
        (_HASH, at_table),
        (_SYMBOLS, at_symbols),
        (_SYMBOL_SIZE, _SYMBOL),
        (_STRINGS, at_strings),
        (_STRINGS_SIZE, len(strings)),
        (0, 0),
    )
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian
    header = identity + struct.pack(
        "<HHIQQQIHHHHHH", 3, _MACHINES[machine], 1, 0, _HEADER, 0, 0, _HEADER, _SEGMENT, 3, 0, 0, 0
    )
    segments = b"".join(
        struct.pack("<IIQQQQQQ", kind, _READ_WRITE, offset, offset, offset, length, length, align)
        for kind, offset, length, align in (
            (_LOAD, 0, size, 65536),  # the largest page of any machine
            (_DYNAMIC_SEGMENT, at_dynamic, 8 * _DYNAMIC, 8),
            (_STACK, 0, 0, 16),  # else the stack would be made executable
        )
    )
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    return header + segments + dynamic + symbols + table + strings


def preload_tensorrt_rtx() -> None:
    """Load the wheel's libraries under the names by which they look for each other.

    Once in a process, before TensorRT-RTX's parser meets a plugin.  Raises ``ImportError`` where
    the wheel is not installed; leaves a system alone on which ``libtensorrt_rtx.so`` is found.
    """
    try:
        ctypes.CDLL("libtensorrt_rtx.so", mode=ctypes.RTLD_GLOBAL)
        return
    except OSError:
        pass
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "no tensorrt_rtx_libs, which comes with TensorRT-RTX", name="tensorrt_rtx"
        )
    folder = Path(found.submodule_search_locations[0])
    ctypes.CDLL(str(folder / "libtensorrt_rtx.so.1"), mode=ctypes.RTLD_GLOBAL)
    library = empty_library("libtensorrt_rtx.so", "libtensorrt_rtx.so.1", platform.machine())
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(library)
        file.flush()
        ctypes.CDLL(file.name, mode=ctypes.RTLD_GLOBAL)
