from __future__ import annotations

import pytest

from moe_export.forms import Report
from moe_export.report.parity import from_json
from report.make_fixtures import FIXTURES


@pytest.fixture(scope="session")
def passed() -> Report:
    return _read("passed")


@pytest.fixture(scope="session")
def failed() -> Report:
    return _read("failed")


def _read(name: str) -> Report:
    path = FIXTURES / f"{name}.json"
    return from_json(path.read_bytes(), path.name)
