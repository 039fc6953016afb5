from __future__ import annotations

import shutil
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


class Made:
    """The tiny model as bundles, each exported once for all tests that only read."""

    def __init__(self, folder: Path, model: torch.nn.Module) -> None:
        self._folder = folder
        self._model = model
        self._bundles: dict[str, Bundle] = {}

    def __call__(self, target: str, precision: str = "f32") -> Bundle:
        name = f"{target} {precision}".replace(":", "_")
        if name not in self._bundles:
            self._bundles[name] = moe_export.export(
                self._model,
                output=self._folder / name,
                example_inputs=tiny.example_inputs(),
                target=target,
                precision=precision,
            )
        return self._bundles[name]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, model: torch.nn.Module) -> Made:
    return Made(tmp_path_factory.mktemp("line"), model)


@pytest.fixture(scope="session", params=["ort", "standard"])
def bundle(request: pytest.FixtureRequest, made: Made) -> Bundle:
    """The tiny model for each target."""
    return made(request.param)


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
def copied(made: Made, tmp_path: Path) -> Path:
    """A copy of the bundle for ``standard``, whose weights lie in rows, that a test may spoil."""
    return Path(shutil.copytree(made("standard").path, tmp_path / "copy"))
