from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from moe_export.card import bundle_card
from moe_export.runtime import Bundle


@pytest.fixture
def card(invoke, bundle):
    return json.loads(invoke("inspect", bundle, "--json").stdout)


def test_a_bundle_s_card_names_layers_routing_experts_and_how_they_were_proven(invoke, bundle):
    result = invoke("inspect", bundle)
    assert result.exit_code == 0
    assert "moes.0 … moes.1 (2 alike): SparseMoE" in result.stdout
    assert "softmax, top-2; 4 experts, top_k 2" in result.stdout
    assert "gated silu 8 -> 12 -> 8, 288 parameters each" in result.stdout
    assert "4 experts reached" in result.stdout
    assert "model takes  tokens int64 [batch, sequence]" in result.stdout
    assert "forgotten  forward() never reads it" in result.stdout
    assert "verdict      passed" in result.stdout


def test_a_block_that_was_not_proven_shows_its_reason(invoke, bundle, card):
    strange = card["blocks"][2]
    assert strange["describe"] is None
    assert strange["reason"]
    assert strange["reason"] in invoke("inspect", bundle).stdout


def test_active_parameters_leave_out_the_experts_that_a_token_does_not_choose(card):
    # Two proven layers, each with two of four experts idle: gate, up and down are 8 x 12.
    assert card["parameters"] - card["active_parameters"] == 2 * (4 - 2) * 3 * 8 * 12
    assert card["active_is_bound"] is True


def test_active_parameters_are_exact_once_every_block_is_proven(exported):
    card = bundle_card(Bundle.open(exported.bundle))
    assert not replace(card, blocks=card.layers).active_is_bound


def test_a_model_s_card_is_the_bundle_s(invoke, named, card):
    result = invoke("inspect", *named, "--json")
    assert result.exit_code == 0, result.stderr
    of_model = json.loads(result.stdout)
    assert of_model["bundle"] is None
    assert of_model["source"]["fingerprint"] == card["source"]["fingerprint"]
    for fact in ("blocks", "parameters", "active_parameters"):
        assert of_model[fact] == card[fact]


def test_files_are_listed_with_their_sizes(card, exported):
    for path, size in card["bundle"]["files"].items():
        assert (exported.bundle / path).stat().st_size == size


def test_layers_that_differ_are_not_folded(invoke, exported, tmp_path, monkeypatch):
    made = Bundle.open(exported.bundle)
    first, second, _ = made.manifest.blocks
    router = replace(second.layer.router, top_k=3)
    other = replace(second, layer=replace(second.layer, router=router))
    changed = replace(made, manifest=replace(made.manifest, blocks=(first, other)))
    monkeypatch.setattr(Bundle, "open", lambda path: changed)
    said = invoke("inspect", exported.bundle).stdout
    assert "moes.0: SparseMoE" in said
    assert "moes.1: SparseMoE" in said


def test_a_name_from_a_bundle_cannot_steer_the_terminal(invoke, exported, monkeypatch):
    made = Bundle.open(exported.bundle)
    block = replace(made.manifest.blocks[0], path="\x1b]0;owned\x07", kind="\x1b[2J")
    changed = replace(made, manifest=replace(made.manifest, blocks=(block,)))
    monkeypatch.setattr(Bundle, "open", lambda path: changed)
    said = invoke("inspect", exported.bundle).stdout
    assert "owned" in said
    assert "\x1b" not in said
    assert "\x07" not in said


def test_a_damaged_bundle_is_refused(invoke, exported, tmp_path):
    path = tmp_path / "damaged.moe"
    shutil.copytree(exported.bundle, path)
    (path / "onnx/model.onnx").write_bytes(b"")
    result = invoke("inspect", path)
    assert result.exit_code == 7
    assert result.stdout == ""
    assert "onnx/model.onnx" in result.stderr


def test_a_folder_that_is_no_bundle_is_called_that(invoke, tmp_path):
    result = invoke("inspect", tmp_path)
    assert result.exit_code == 2
    assert "not a bundle" in result.stderr
