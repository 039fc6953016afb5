"""Parity reports as a command is given them: a bundle that holds one, or a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moe_export.errors import UsageError

if TYPE_CHECKING:
    from moe_export.forms import Report

_PARITY = "reports/parity.json"


def read_report(path: str) -> Report:
    """The report of the bundle at ``path``, or the one that ``validate --json`` wrote there.

    Raises ``UsageError`` where there is neither, ``UnsafeInputError`` for a bundle or a file that
    is damaged.
    """
    from moe_export.report.parity import from_json

    place = Path(path)
    if place.is_dir():
        from moe_export.runtime.bundle import Bundle

        bundle = Bundle.open(path)
        if _PARITY not in bundle.manifest.files:
            raise UsageError(
                "the bundle holds no report",
                where=path,
                hint=f"moe-export validate {path} --json writes one",
            )
        return from_json((bundle.path / _PARITY).read_bytes(), f"{path}/{_PARITY}")
    try:
        content = place.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(
            "there is no bundle and no report that can be read",
            where=path,
            hint="give a bundle's folder, or what moe-export validate BUNDLE --json wrote",
        ) from error
    return from_json(content, path)
