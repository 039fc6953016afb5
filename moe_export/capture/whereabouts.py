"""Where the PyTorch modules behind a graph are written: ``file.py:line``, without machine paths."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

from torch import nn


def whereabouts(module: nn.Module, paths: Iterable[str]) -> dict[str, str]:
    """The classes of the modules at ``paths`` and of all that hold them, the model first.

    Left out are PyTorch's own, which hold and mean nothing, and classes without a source file: of
    a notebook, of a model that came as a graph, of code that is no longer there.
    """
    wanted = {""}
    for path in paths:
        parts = path.split(".")
        wanted |= {".".join(parts[:length]) for length in range(1, len(parts) + 1) if path}
    kinds = {path: type(module.get_submodule(path)) for path in sorted(wanted)}
    written = {kind: _written(kind) for kind in set(kinds.values())}
    return {path: where for path, kind in kinds.items() if (where := written[kind]) is not None}


def _written(kind: type[nn.Module]) -> str | None:
    if kind.__module__.partition(".")[0] == "torch":
        return None
    try:
        file = Path(inspect.getsourcefile(kind) or "")
        _, line = inspect.getsourcelines(kind)
    except (OSError, TypeError, SyntaxError):
        return None
    # A cell of a notebook has a file name of this process.
    return f"{file.name}:{line}" if file.is_file() else None
