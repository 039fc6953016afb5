"""The tree of errors a user can meet, and the exit code of each.

Only ``MoeExportError`` and its children reach users: they say what is wrong, where, and what to
do next.  Anything else that escapes is a bug and stays a traceback.
"""

from __future__ import annotations


class MoeExportError(Exception):
    """Something the user can act on.

    ``message`` says what is wrong, ``where`` names the place in the user's words (a file, a
    module path, an option) and ``hint`` says what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"at: {self.where}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class UsageError(MoeExportError):
    """The request itself is wrong: an unknown option, a missing file, inputs of a wrong shape."""

    exit_code = 2


class UnsupportedError(MoeExportError):
    """The model, an operator or a target cannot be served by this release."""

    exit_code = 3


class RewriteError(UnsupportedError):
    """A mixture-of-experts block could not be proven and cannot be exported exactly as it is."""


class CaptureError(UnsupportedError):
    """The model could not be captured as one graph with symbolic axes."""


class CompletenessError(UnsupportedError):
    """A parameter or buffer that the model uses would be missing from the bundle."""


class ParityError(MoeExportError):
    """The bundle does not reproduce the eager model."""

    exit_code = 4


class MissingEnvironmentError(MoeExportError):
    """A package, library, GPU or version that this step needs is not here."""

    exit_code = 5


class MemoryBudgetError(MoeExportError):
    """The work does not fit the memory or disk it may use."""

    exit_code = 6


class DiskFullError(MemoryBudgetError):
    """The disk became full while something was written to it."""


class UnsafeInputError(MoeExportError):
    """An input is corrupt, or asks for a trust it was not given."""

    exit_code = 7
