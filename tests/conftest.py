"""What tests of several rooms look at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A check says the same of the same code each time; `make fuzz` draws anew.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Their files are among scikit-learn's, which the tests have for the digits of the example.
PHOTOS = ("china.jpg", "flower.jpg")


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Two photographs of 427 x 640 pixels."""
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "images"
    return [folder / name for name in PHOTOS]
