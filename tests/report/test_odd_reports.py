"""A report that a stranger wrote is refused or written down; nothing in it is a bug."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moe_export.errors import UnsafeInputError
from moe_export.report import text
from moe_export.report.diff import diff
from moe_export.report.diff_text import tables
from moe_export.report.html import to_html
from moe_export.report.junit import to_junit
from moe_export.report.parity import from_json, to_json
from moe_export.strict_json import NOT_FINITE

ODD = {
    float: ("NaN", "Infinity", "-Infinity", 0.0, -1.0, 1e308, 5e-324),
    int: (0, -1, 2**62),
    str: ("", "\x00", "\x1b[31m\ufffe", "{{ 7 }}", "a" * 10_000),
}
CASES = [(kind, value) for kind, values in ODD.items() for value in values]


def everywhere(value: Any, kind: type, odd: Any) -> Any:
    """``value`` with ``odd`` wherever something of that kind stands."""
    if isinstance(value, dict):
        return {key: everywhere(inner, kind, odd) for key, inner in value.items()}
    if isinstance(value, list):
        return [everywhere(inner, kind, odd) for inner in value]
    return odd if type(value) is kind and value not in NOT_FINITE else value


@pytest.mark.parametrize(("kind", "odd"), CASES, ids=lambda value: repr(value)[:20])
def test_odd_values_everywhere_end_in_words(failed, kind, odd):
    content = everywhere(json.loads(to_json(failed)), kind, odd)
    content["schema_version"] = 2
    try:
        report = from_json(json.dumps(content).encode(), "x.json")
    except UnsafeInputError:
        content["passed"] = True
        report = from_json(json.dumps(content).encode(), "x.json")
    page = to_html(report)
    assert "</html>" in page
    assert not {"\x00", "\x1b", "\ufffe"} & set(page)
    assert to_junit(report).endswith(b"</testsuite>\n")
    assert text.tables(report)
    assert tables(diff(report, report))
