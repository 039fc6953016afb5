from __future__ import annotations

import json

import numpy as np
import pytest

from moe_export.runtime import Bundle

SHORT = ("--seconds", 0.05)


@pytest.fixture(scope="module")
def golden(exported):
    return Bundle.open(exported.bundle).golden().cases[0]


def measured(invoke, *words):
    result = invoke("bench", *words, *SHORT, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_table_names_bundle_machine_and_operators(invoke, bundle):
    result = invoke("bench", bundle, *SHORT)
    assert (result.exit_code, result.stderr) == (0, "")
    for words in ("tokens/s", "GFLOP/s", "golden case", "operator", "MatMul"):
        assert words in result.stdout


def test_tokens_and_experts_are_counted_from_the_choices_of_the_routers(invoke, bundle, golden):
    found = measured(invoke, bundle)
    layers = golden.layers.values()
    assert found["tokens"] == max(len(layer.topk_ids) for layer in layers)
    blocks = Bundle.open(bundle).manifest.blocks
    experts = {block.name: block.layer.experts for block in blocks if block.layer is not None}
    assert found["operations"] == sum(
        2 * layer.topk_ids.size * experts[name].parameters_per_expert
        for name, layer in golden.layers.items()
    )
    visited = sum(
        len(np.unique(layer.topk_ids)) * experts[name].parameters_per_expert * 4
        for name, layer in golden.layers.items()
    )
    assert found["expert_bytes"] >= visited > 0


def test_the_bundle_is_its_own_measure(invoke, bundle):
    (own,) = measured(invoke, bundle)["entries"]
    assert own["speedup"] == 1
    assert own["difference"] is None
    low, high = own["quartiles"]
    assert 0 < low <= own["seconds"] <= high


def test_another_bundle_and_the_eager_model_stand_beside_it(invoke, bundle, named, exported):
    twin = f"{exported.bundle.parent}/./{exported.bundle.name}"
    source, *path = named
    words = ("--against", twin, "--against", "eager", "--source", source, *path)
    entries = measured(invoke, bundle, *words)["entries"]
    assert [entry["name"] for entry in entries] == [exported.bundle.name, twin, "eager"]
    assert entries[1]["difference"] == 0
    # How far the two may be apart is judged by `validate`; here, that they are the same model.
    assert entries[2]["difference"] < 1e-3


def test_own_inputs_are_measured(invoke, bundle, tmp_path):
    arrays = {"image": np.full((1, 2, 2), 0.5, np.float32), "tokens": np.array([[2, 3, 4, 5]])}
    np.savez(tmp_path / "in.npz", **arrays)
    found = measured(invoke, bundle, "--inputs", tmp_path / "in.npz", "--threads", 1)
    assert found["shapes"] == {"image": [1, 2, 2], "tokens": [1, 4]}
    assert found["threads"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--against", "eager"), "--source go together"),
        (("--source", "tiny_vlm:tiny"), "--source go together"),
        (("--trust-pickle",), "need --source"),
        (("--threads", 0), "must be 1 or more"),
        (("--seconds", 0), "between 0 and 3600"),
        (("--against", "nowhere.moe"), "there is no bundle here"),
    ],
)
def test_a_wrong_request_is_an_error_of_use(invoke, bundle, words, said):
    result = invoke("bench", bundle, *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_peer_may_not_have_the_bundle_s_name(invoke, bundle, monkeypatch, exported):
    monkeypatch.chdir(exported.bundle.parent)
    result = invoke("bench", exported.bundle.name, "--against", exported.bundle.name, *SHORT)
    assert result.exit_code == 2
    assert "names the bundle itself" in result.stderr
