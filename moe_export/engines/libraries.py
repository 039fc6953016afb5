"""The plugin library: where it is.  It comes with this package or from where the user says."""

from __future__ import annotations

import os
from pathlib import Path

from moe_export.errors import MissingEnvironmentError

_VARIABLE = "MOE_EXPORT_TRT_LIBRARY"
_PACKAGED = Path(__file__).parents[1] / "native" / "libmoe_export_trt.so"


def plugin_library() -> Path:
    """What ``MOE_EXPORT_TRT_LIBRARY`` names, else the package's own.

    Raises ``MissingEnvironmentError`` where there is no such file.
    """
    named = os.environ.get(_VARIABLE)
    path = Path(named) if named else _PACKAGED
    if not path.is_file():
        raise MissingEnvironmentError(
            "the TensorRT plugins are not here",
            where=str(path),
            hint=f"make gpu builds them, or name a library in {_VARIABLE}",
        )
    return path.absolute()
