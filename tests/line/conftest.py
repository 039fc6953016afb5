from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import moe_export
from moe_export import Bundle

from . import tiny


@pytest.fixture(scope="session")
def model() -> torch.nn.Module:
    return tiny.build()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: torch.nn.Module) -> Bundle:
    """The tiny model, exported once for all tests that only read."""
    output = tmp_path_factory.mktemp("line") / "tiny"
    return moe_export.export(model, output=output, example_inputs=tiny.example_inputs())


def inputs_of(batch: int, sequence: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of other sizes, and other numbers, than the example."""
    random = np.random.default_rng(seed)
    return {
        "image": random.standard_normal((batch, 4, 4), np.float32),
        "tokens": random.integers(0, tiny.VOCABULARY, (batch, sequence)),
    }


def eager(model: torch.nn.Module, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may spoil."""
    import shutil

    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))
