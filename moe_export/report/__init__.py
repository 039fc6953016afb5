"""Write a report for those who read it: programs (JSON) and continuous integration (JUnit XML)."""

from __future__ import annotations

from collections.abc import Mapping

from moe_export.forms import Report
from moe_export.report.junit import to_junit
from moe_export.report.parity import to_json


def files(report: Report) -> Mapping[str, bytes]:
    """The report's files by name, as they stand in a bundle's ``reports/``."""
    return {"parity.json": to_json(report).encode(), "junit.xml": to_junit(report)}
