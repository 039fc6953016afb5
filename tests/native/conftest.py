"""These tests run the library that ``make native`` builds, and are skipped where it is missing."""

from __future__ import annotations

import pytest

from moe_export.errors import MissingEnvironmentError
from moe_export.runtime import kernels


@pytest.fixture(scope="session")
def library():
    try:
        return kernels.library_path()
    except MissingEnvironmentError as error:
        pytest.skip(f"no native kernels: {error.message}")
