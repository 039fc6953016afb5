"""The command line: words in, exit status out.

Commands import the rooms they need when they run, so that help, ``run``, ``validate BUNDLE`` and
``inspect BUNDLE`` work where there is neither PyTorch nor ONNX.
"""

from __future__ import annotations

try:
    from moe_export.cli.program import program
except ModuleNotFoundError as error:
    if error.name != "click":
        raise
    from moe_export.cli.absent import program  # type: ignore[assignment]


def main() -> None:
    """The ``moe-export`` command.  Exits with the status that ``moe-export --help`` lists."""
    program.main()


__all__ = ["main", "program"]
