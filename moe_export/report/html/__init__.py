"""The report as one HTML file that needs nothing else: no script, no network, no font."""

from __future__ import annotations

from moe_export.report.html.page import to_html

__all__ = ["to_html"]
