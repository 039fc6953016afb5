"""The report as JSON: every number, in a fixed order.  ``docs/parity.schema.json`` describes it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from moe_export.errors import UnsafeInputError
from moe_export.forms import Report
from moe_export.strict_json import decode, parse

SCHEMA_VERSION = 2
"""2 added loads, conflicts, logits, generation, attribution, sizes and times."""

_READABLE = (1, 2)
_HINT = "moe-export validate BUNDLE --json writes one"


def to_json(report: Report) -> str:
    """The whole report; numbers that JSON has no word for become ``"NaN"`` or ``"Infinity"``."""
    content = {"schema_version": SCHEMA_VERSION, "passed": report.passed, **asdict(report)}
    return json.dumps(_plain(content), indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(content: bytes, file: str) -> Report:
    """The report that ``to_json`` wrote, of this version or an earlier one.

    Raises ``UnsafeInputError`` naming ``file`` for anything else, and for a verdict that is not
    that of the numbers beside it.
    """
    value = parse(content, file)
    if not isinstance(value, dict):
        raise UnsafeInputError("not a parity report", where=file, hint=_HINT)
    version, passed = value.pop("schema_version", None), value.pop("passed", None)
    if type(version) is not int or version not in _READABLE:
        raise UnsafeInputError(
            f"parity reports of schema version {version!r} are not read", where=file, hint=_HINT
        )
    report = decode(Report, value, file, defaults=True, infinite=True)
    if passed is not report.passed:
        raise UnsafeInputError(
            f'the verdict "passed": {json.dumps(passed)} is not that of its numbers', where=file
        )
    return report


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
