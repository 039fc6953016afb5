"""The program where click is not installed: a service that runs bundles can do without."""

from __future__ import annotations

import sys
from typing import NoReturn


class Absent:
    """Says what is missing."""

    def main(self) -> NoReturn:
        """Exit as the program does where a package is missing."""
        print("error: the command line needs the package click", file=sys.stderr)  # noqa: T201
        print("at: moe-export", file=sys.stderr)  # noqa: T201
        print("hint: pip install 'moe-export[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(5)


program = Absent()
