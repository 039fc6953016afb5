"""The program that reads an untrusted checkpoint's pickle, in a process of its own.

It is run as ``python -I -B isolated.py TORCH_FOLDER < FILE``, imports nothing of this project, and
prints one JSON object: what the file is, and where its tensors lie.  It reads no tensor.  Whatever
goes wrong ends the process with a traceback, and the last line of that is the reason.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import pickletools
import re
import resource
import sys
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import torch

NO_TORCH = 5
"""The exit status where PyTorch could not be imported."""

# A checkpoint of 100 000 tensors, more than the largest MoE models have, takes 20 s and 350 MB.
_LIMITS = {
    resource.RLIMIT_CPU: 60,  # seconds beyond what importing PyTorch took
    resource.RLIMIT_DATA: 4 << 30,  # bytes
    resource.RLIMIT_FSIZE: 64 << 20,  # bytes of answer, and of anything else written
    resource.RLIMIT_CORE: 0,
}
_MAX_NODES = 1_000_000
_MAX_DEPTH = 64
_MAX_GLOBALS = 20


class NotPlainError(Exception):
    """The content is not made of tensors and JSON's own types."""


def main() -> int:
    """Describe the file on standard input; the exit status is 0, ``NO_TORCH`` or a crash's."""
    try:
        import torch
    except ImportError:
        # PyTorch came to the parent by a way that an isolated interpreter does not look.
        sys.path.append(sys.argv[1])
        try:
            import torch
        except ImportError as error:
            sys.stderr.write(f"{error}\n")
            return NO_TORCH
    torch.set_num_threads(1)
    _limit()
    with os.fdopen(0, "rb") as file:
        sys.stdout.write(json.dumps(describe(file)))
    return 0


def describe(file: BinaryIO) -> dict[str, Any]:
    """What the PyTorch archive ``file`` holds.

    ``{"kind": "pickle", "globals": […], "reason": …}``: objects beyond tensors;
    ``{"kind": "weights"}``: tensors and numbers without a ``format``; or
    ``{"kind": "checkpoint", "header": {…}, "tensors": {section: {name: facts}}}``.
    """
    import torch

    file.seek(0)
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except pickle.UnpicklingError as error:
        return {"kind": "pickle", "globals": _globals(file), "reason": str(error)}
    if unsafe:
        return {"kind": "pickle", "globals": sorted(unsafe)[:_MAX_GLOBALS], "reason": None}
    try:
        value = _load_without_bytes(file)
    except pickle.UnpicklingError as error:
        # PyTorch wraps the reason in advice to switch the safety off.
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        return {"kind": "pickle", "globals": [], "reason": reason.group(1) if reason else "broken"}
    if type(value) is not dict or type(value.get("format")) is not str:
        return {"kind": "weights"}
    sections = {key: entry for key, entry in value.items() if _is_tensors(entry)}
    header = {key: entry for key, entry in value.items() if key not in sections}
    return {
        "kind": "checkpoint",
        "header": _Plain().copy(header),
        "tensors": {key: _facts(entry) for key, entry in sections.items()},
    }


def _load_without_bytes(file: BinaryIO) -> Any:
    """The unpickled content, in which each storage knows its offset in the file and no bytes."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Since 2.11 loading to "meta" skips the bytes too, without the fake tensors' 2 s of imports.
    skips_bytes = hasattr(torch.serialization, "_is_meta_location")
    file.seek(0)
    with contextlib.nullcontext() if skips_bytes else FakeTensorMode():
        return torch.load(file, weights_only=True, map_location="meta")


def _is_tensors(entry: object) -> bool:
    import torch

    return (
        type(entry) is dict
        and bool(entry)
        and all(isinstance(value, torch.Tensor) for value in entry.values())
    )


def _facts(tensors: dict[Any, torch.Tensor]) -> dict[str, dict[str, Any]]:
    facts = {}
    for name, tensor in tensors.items():
        if type(name) is not str:
            raise NotPlainError(f"a tensor is named by {type(name).__name__}")
        if str(tensor.layout) != "torch.strided" or tensor.is_quantized or tensor.is_neg():
            raise NotPlainError(f"tensor {name[:100]!r} is not a plain strided tensor")
        storage = tensor.untyped_storage()
        facts[name] = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "storage_offset": tensor.storage_offset(),
            "nbytes": storage.nbytes(),
            "offset": storage._checkpoint_offset,
        }
    return facts


class _Plain:
    """A copy of JSON-like content; bounded, for shared references can make it exponential."""

    def __init__(self) -> None:
        self.nodes = 0

    def copy(self, value: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > _MAX_NODES or depth > _MAX_DEPTH:
            raise NotPlainError("the content is too large or too deeply nested")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) is list:
            return [self.copy(item, depth + 1) for item in value]
        if type(value) is dict and all(type(key) is str for key in value):
            return {key: self.copy(item, depth + 1) for key, item in value.items()}
        raise NotPlainError(f"a {type(value).__name__} where JSON content belongs")


def _globals(file: BinaryIO) -> list[str]:
    """The names that a pickle of any protocol imports, as far as they can be read off it."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        stream = io.BytesIO(archive.read(name))
    found: set[str] = set()
    memo: list[str] = []
    strings: list[str] = []
    with contextlib.suppress(ValueError):
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                found.add(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                found.add(".".join(strings[-2:]))
            elif opcode.name == "MEMOIZE":
                memo.append(strings[-1] if strings else "")
            elif opcode.name in ("BINGET", "LONG_BINGET") and int(argument or 0) < len(memo):
                strings.append(memo[int(argument or 0)])
            elif isinstance(argument, str):
                strings.append(argument)
    # What is a stranger to PyTorch says most.
    return sorted(found, key=lambda name: (name.startswith(("torch.", "collections.")), name))[
        :_MAX_GLOBALS
    ]


def _limit() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    for limit, value in _LIMITS.items():
        value += spent if limit == resource.RLIMIT_CPU else 0
        _, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    sys.exit(main())
