"""The report as JSON: every number, in a fixed order."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from moe_export.forms import Report

SCHEMA_VERSION = 1


def to_json(report: Report) -> str:
    """The whole report; numbers that JSON has no word for become ``"NaN"`` or ``"Infinity"``."""
    content = {"schema_version": SCHEMA_VERSION, "passed": report.passed, **asdict(report)}
    return json.dumps(_plain(content), indent=2, sort_keys=True, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
