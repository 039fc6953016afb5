from __future__ import annotations

import shutil

import pytest

from bundle.toy import bigram_model, export


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    path = tmp_path_factory.mktemp("pristine") / "bundle"
    export(bigram_model(), path)
    return path


@pytest.fixture
def victim(pristine, tmp_path):
    """A good bundle to do bad things to."""
    return shutil.copytree(pristine, tmp_path / "victim")
