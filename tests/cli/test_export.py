from __future__ import annotations

import importlib
import json
import subprocess
import sys

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
    assert said["bundle"].endswith("target ort")
    assert "rounding" not in said
    assert said["routing"].startswith("100 % of ")
    assert "28 of 28 tensors within tolerance" in said["numbers"]
    assert said["blocks"] == "2 of 3 MoE blocks proven and fused"
    assert said["unused"] == "1 tensor of the source in no graph"
    assert said["reports"] == "tiny.moe/reports/junit.xml, tiny.moe/reports/parity.json"


def test_talk_of_an_export_is_the_warning_about_the_block_that_was_not_fused(exported):
    (warning,) = exported.stderr.splitlines()
    assert warning.startswith("warning: strange (SmoothMoE) was exported as it is written")


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
    assert (facts["target"], facts["precision"], facts["rounding"]) == ("ort", "f32", None)
    assert facts["verdict"] == "passed"
    assert facts["routing_agreement"] == 1.0
    assert 0 < facts["largest_relative_error"] < 1e-4
    assert facts["not_run"] == {}
    assert facts["unused"] == {"forgotten": manifest.unused["forgotten"]}
    assert [block["status"] for block in facts["blocks"]] == ["proven", "proven", "unfused"]
    files = [path for path in exported.bundle.rglob("*") if path.is_file()]
    assert facts["bytes"] == sum(path.stat().st_size for path in files)


def test_an_export_in_a_precision_says_what_rounding_costs(rounded):
    _, stdout = rounded
    said = dict(line.split(maxsplit=1) for line in stdout.splitlines()[1:])
    assert said["bundle"].endswith("target ort, experts in int8:64")
    assert said["rounding"].startswith("costs a relative error of at most ")
    assert said["rounding"].endswith(" of the tokens choose the same experts where fewest do")


def test_the_cost_of_rounding_is_on_the_card_and_in_the_report(rounded, invoke):
    output, _ = rounded
    card = [" ".join(line.split()) for line in invoke("inspect", output).stdout.splitlines()]
    assert "precision int8:64" in card
    assert any(line.startswith("rounding costs a relative error") for line in card)
    bundle = json.loads(invoke("inspect", output, "--json").stdout)["bundle"]
    report = json.loads((output / "reports/parity.json").read_text())
    assert (bundle["precision"], report["precision"]) == ("int8:64", "int8:64")
    assert bundle["rounding"] == report["rounding"]
    (cost,) = bundle["rounding"]["outputs"].values()
    assert 0 < cost["relative_error"] < 1
    assert 0.9 < cost["cosine"] < 1


def test_a_rounded_bundle_is_validated_against_the_live_model_rounded_alike(
    rounded, invoke, checkpoint, python_path
):
    output, _ = rounded
    result = invoke("validate", output, "--source", checkpoint, *python_path)
    assert result.exit_code == 0, result.stderr
    assert "live tiny.pt, fresh inputs" in result.stdout


def test_an_unknown_precision_exits_with_2_and_lists_those_there_are(invoke, checkpoint, tmp_path):
    result = invoke(checkpoint, "-o", tmp_path / "b.moe", "--precision", "int3")
    assert result.exit_code == 2
    assert "at: --precision" in result.stderr
    assert "hint: precisions: f32, bf16" in result.stderr


def test_an_export_above_its_budget_exits_with_6_and_leaves_nothing(checkpoint, tmp_path):
    words = [checkpoint, "-o", tmp_path / "b.moe", "--python-path", MODELS]
    result = subprocess.run(
        [sys.executable, "-m", "moe_export.cli", *words, "--max-memory", "270MiB"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 6, result.stderr
    assert "more than the 270 MiB that --max-memory allows\nat: the stage" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_export_for_kernels_that_are_not_here_exits_with_5_before_it_begins(invoke, tmp_path):
    gone = str(tmp_path / "gone.so")
    words = ("never_looked_for.pt", "-o", tmp_path / "b.moe")
    result = invoke(*words, MOE_EXPORT_ORT_LIBRARY=gone)
    assert result.exit_code == 5
    assert "--target standard" in result.stderr
    result = invoke(*words, "--target", "standard", MOE_EXPORT_ORT_LIBRARY=gone)
    assert result.exit_code == 2


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
