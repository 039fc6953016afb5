"""The C++ runtime's parts as Python functions: requests to ``plugins/tests/runtime/probe.cc``."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from embed.building import built
from embed.driver import KINDS


@dataclass(frozen=True)
class Answer:
    """What was said, arrays by name, and the bytes behind them."""

    said: Mapping[str, Any]
    content: bytes

    @property
    def pixels(self) -> np.ndarray:
        shape = (self.said["height"], self.said["width"], 3)
        return np.frombuffer(self.content, np.uint8).reshape(shape)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        made, place = {}, 0
        for each in self.said["arrays"]:
            dtype, shape = np.dtype(each["dtype"]), tuple(each["shape"])
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            flat = np.frombuffer(self.content[place : place + size], dtype)
            made[each["name"]], place = flat.reshape(shape), place + size
        assert place == len(self.content)
        return made


def ask(do: str, content: bytes | np.ndarray = b"", **said: Any) -> Answer:
    """The answer to a request; raises the exception of the error's kind."""
    if isinstance(content, np.ndarray):
        content = np.ascontiguousarray(content).tobytes()
    request = json.dumps({"do": do, **said}).encode() + b"\n" + content
    size = ctypes.c_size_t()
    place = _library()(request, len(request), ctypes.byref(size))
    line, _, rest = ctypes.string_at(place, size.value).partition(b"\n")
    answered = json.loads(line)
    error = answered.get("error")
    if error is None:
        return Answer(answered, rest)
    kind = KINDS.get(error["kind"])
    assert kind is not None, f"an internal error: {error}"
    raise kind(error["what"], where=error["where"] or None, hint=error["hint"] or None)


@cache
def _library() -> Any:
    # Sanitizers come first in a process or not at all: MOE_EXPORT_PROBE names a library of theirs.
    path = os.environ.get("MOE_EXPORT_PROBE") or built("moe_runtime_probe")
    function = ctypes.CDLL(path).moe_runtime_probe
    function.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
    function.restype = ctypes.c_void_p
    return function
