"""Files of pickled objects: refused with their reason, or read at the user's own word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moe_export.errors import UnsafeInputError, UsageError
from moe_export.load.reader import PickledObjects
from moe_export.load.resolve import add_current_folder
from moe_export.load.usercode import run_user_code

HOW_TO_SAVE = (
    "save it with moe_export.save_checkpoint(model, 'model.pt', "
    "factory='package.module:function', config={...}, example_inputs=(...))"
)
_SHOWN = 5


def pickle_refused(path: Path, found: PickledObjects) -> UnsafeInputError:
    """Why a pickled module is not read, what is in it, and how to do without."""
    names = ", ".join(repr(name[:80]) for name in found.globals[:_SHOWN])
    more = f" and {len(found.globals) - _SHOWN} more" if len(found.globals) > _SHOWN else ""
    what = f" (it imports {names}{more})" if names else f" ({found.reason})" if found.reason else ""
    return UnsafeInputError(
        f"the file holds pickled Python objects{what}, and reading them runs whatever code its "
        "author put there",
        where=str(path),
        hint=f"{HOW_TO_SAVE}; or pass --trust-pickle if you trust its author",
    )


def read_trusted_pickle(path: Path) -> Any:
    """Unpickle the file at ``path``, running whatever code it asks for, and return the object.

    The current folder is put at the end of ``sys.path``, for that is where the classes of a
    pickled module often are.  Raises ``UsageError`` if that fails, or yields no ``nn.Module``.
    """
    add_current_folder()
    module = run_user_code(
        lambda: torch.load(path, map_location="cpu", weights_only=False),
        failure="unpickling failed",
        where=str(path),
    )
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"the file holds an object of type {type(module).__name__}, not an nn.Module",
            where=str(path),
            hint=HOW_TO_SAVE,
        )
    return module
