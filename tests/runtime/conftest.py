from __future__ import annotations

import pytest

from bundle.toy import bigram_model, export, linear_model
from moe_export.runtime import Bundle


@pytest.fixture(scope="session")
def linear(tmp_path_factory) -> Bundle:
    path = tmp_path_factory.mktemp("linear") / "bundle"
    export(linear_model(), path)
    return Bundle.open(path)


@pytest.fixture(scope="session")
def bigram(tmp_path_factory) -> Bundle:
    path = tmp_path_factory.mktemp("bigram") / "bundle"
    export(bigram_model(), path)
    return Bundle.open(path)
