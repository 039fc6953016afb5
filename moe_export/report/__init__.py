"""Write a report for those who read it: programs (JSON) and continuous integration (JUnit XML).

Pages for people are made on request, by ``html``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from moe_export.forms import Report
from moe_export.report.junit import to_junit
from moe_export.report.parity import to_json


def files(report: Report) -> Mapping[str, bytes]:
    """The report's files by name, as they stand in a bundle's ``reports/``.

    Without the times, which are of one run and no two are alike: equal models give equal bundles.
    """
    lasting = replace(report, seconds={})
    return {"parity.json": to_json(lasting).encode(), "junit.xml": to_junit(lasting)}
