"""The one door through which code of the user's runs, and what its failures look like."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar

from moe_export.errors import MoeExportError, UsageError

Result = TypeVar("Result")


def run_user_code(call: Callable[[], Result], *, failure: str, where: str) -> Result:
    """What ``call()`` returns; whatever it raises becomes a ``UsageError`` that ends with it.

    The original exception is chained.  Also an exit from inside becomes an error: code that is
    imported has no say in this program's exit status.
    """
    try:
        return call()
    except MoeExportError:
        raise
    except (Exception, SystemExit) as error:
        last_line = traceback.format_exception_only(error)[-1].strip()
        raise UsageError(
            f"{failure}: {last_line}", where=where, hint="-v shows the whole traceback"
        ) from error
