"""The steps of the example workflow, in a shell, on a small model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "examples" / "ci" / "parity.yml"
MODELS = ROOT / "tests" / "cli" / "models"

# Where the checkout is not installed, pytest is told of the plugin that an installation registers.
SHIMS = {
    "moe-export": 'exec "{python}" -m moe_export.cli "$@"',
    "pytest": 'exec "{python}" -m pytest -p moe_export.pytest_plugin -p no:cacheprovider "$@"',
}


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


@pytest.fixture
def repository(tmp_path) -> Path:
    """A folder with a model's code, as a checkout of it is."""
    folder = tmp_path / "repository"
    folder.mkdir()
    shutil.copy(MODELS / "tiny_vlm.py", folder)
    return folder


@pytest.fixture
def step(workflow, repository, tmp_path):
    """Run the step of that name; the result of its shell."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, words in SHIMS.items():
        shim = binaries / name
        shim.write_text(f"#!/bin/sh\n{words.format(python=sys.executable)}\n")
        shim.chmod(0o755)
    path = f"{binaries}:{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "MODEL": "tiny_vlm:tiny", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **workflow["env"], **own}

    def run(name: str, **more: str) -> subprocess.CompletedProcess[str]:
        (found,) = [
            each for each in workflow["jobs"]["parity"]["steps"] if each.get("name") == name
        ]
        # As GitHub runs a step.
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", found["run"]]
        return subprocess.run(
            command, cwd=repository, env={**environment, **more}, capture_output=True, text=True
        )

    return run


def test_every_step_of_a_bundle_that_passes(workflow, step, repository):
    for name in (
        "Export and validate",
        "Compare with the model itself, on fresh inputs",
        "Show every comparison by name",
        "Write the page, of a bundle that was rejected too",
    ):
        result = step(name)
        assert result.returncode == 0, f"{name}\n{result.stdout}{result.stderr}"
    kept = workflow["jobs"]["parity"]["steps"][-1]["with"]["path"].split()
    assert all(list(repository.glob(pattern)) for pattern in kept)
    assert "<h1" in (repository / "parity.html").read_text()


def test_a_rejected_bundle_has_its_page(step, repository):
    assert step("Export and validate").returncode == 0
    (repository / "model.moe").rename(repository / "model.moe.rejected")
    assert step("Write the page, of a bundle that was rejected too").returncode == 0
    assert (repository / "parity.html").exists()


def test_the_workflow_names_no_machine(workflow):
    text = WORKFLOW.read_text()
    assert "/home/" not in text
    assert "/work/" not in text
    assert workflow["jobs"]["parity"]["runs-on"] == "ubuntu-latest"
