from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch

from moe_export import pipeline
from moe_export.runtime import Bundle
from moe_export.validate import validate

from .conftest import MODELS


@pytest.fixture
def _ready(exported, monkeypatch):
    """The line has run already: ``pipeline.run`` hands out what it made."""
    made = Bundle.open(exported.bundle)
    result = pipeline.Exported(made, validate(made))
    monkeypatch.setattr(pipeline, "run", lambda spec, announce: result)


def test_the_bare_form_makes_a_bundle_named_after_the_model(exported):
    assert Bundle.open(exported.bundle).manifest.verdict == "passed"
    first, *facts = exported.stdout.splitlines()
    assert first == "passed: the bundle reproduces the eager model (golden tensors)"
    said = dict(line.split(maxsplit=1) for line in facts)
    assert said["bundle"].startswith("tiny.moe, ")
    assert said["routing"].startswith("100 % of ")
    assert "22 of 22 tensors within tolerance" in said["numbers"]
    assert said["blocks"] == "2 of 3 MoE blocks proven and fused"
    assert said["unused"] == "1 tensor of the source in no graph"
    assert said["reports"] == "tiny.moe/reports/junit.xml, tiny.moe/reports/parity.json"


def test_talk_of_an_export_is_the_warning_about_the_block_that_was_not_fused(exported):
    (warning,) = exported.stderr.splitlines()
    assert warning.startswith("warning: strange (MagnitudeMoE) was exported as it is written")


def test_an_export_does_not_replace_what_lies_at_its_output(invoke, checkpoint, bundle):
    before = Bundle.open(bundle).manifest.digest
    result = invoke(checkpoint, "-o", bundle)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert Bundle.open(bundle).manifest.digest == before


@pytest.mark.usefixtures("_ready")
def test_json_says_what_the_bundle_is(invoke, checkpoint, exported, tmp_path):
    result = invoke(checkpoint, "-o", tmp_path / "b.moe", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    manifest = Bundle.open(exported.bundle).manifest
    assert facts["bundle"] == str(tmp_path / "b.moe")
    assert facts["verdict"] == "passed"
    assert facts["routing_agreement"] == 1.0
    assert 0 < facts["largest_relative_error"] < 1e-4
    assert facts["not_run"] == {}
    assert facts["unused"] == {"forgotten": manifest.unused["forgotten"]}
    assert [block["status"] for block in facts["blocks"]] == ["proven", "proven", "unfused"]
    files = [path for path in exported.bundle.rglob("*") if path.is_file()]
    assert facts["bytes"] == sum(path.stat().st_size for path in files)


def test_nothing_is_coloured_and_no_stage_announced_where_nobody_watches(exported):
    assert "\x1b" not in exported.stdout + exported.stderr
    assert "load" not in exported.stderr


def test_a_trusted_pickle_is_exported_with_example_inputs_from_a_file(
    invoke, python_path, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(MODELS)
    tiny_vlm = importlib.import_module("tiny_vlm")
    torch.save(tiny_vlm.tiny()[0].eval(), tmp_path / "pickled.pt")
    words = (tmp_path / "pickled.pt", "-o", tmp_path / "b.moe", *python_path)
    assert invoke(*words).exit_code == 7
    refused = invoke(*words, "--trust-pickle")
    assert refused.exit_code == 2
    assert "--example-inputs" in refused.stderr
    inputs = dict(zip(("image", "tokens"), tiny_vlm.tiny()[1], strict=True))
    np.savez(tmp_path / "in.npz", **{name: x.numpy() for name, x in inputs.items()})
    result = invoke(*words, "--trust-pickle", "--example-inputs", tmp_path / "in.npz")
    assert result.exit_code == 0, result.stderr
    assert Bundle.open(tmp_path / "b.moe").manifest.verdict == "passed"
