"""``moe-export doctor``: what is here, what is missing, and what mends it."""

from __future__ import annotations

import json

import pytest

from moe_export import doctor


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ({"onnxruntime": "1.32.0"}, None),
        ({"onnxruntime-gpu": "1.31.1"}, None),
        ({}, "there is no Python package onnxruntime"),
        (
            {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"},
            "onnxruntime and onnxruntime-gpu are installed one over the other",
        ),
    ],
)
def test_onnx_runtime_is_one_of_two_packages(installed, words, monkeypatch):
    monkeypatch.setattr(doctor, "_version", installed.get)
    finding = next(each for each in doctor.examine() if each.name == "ONNX Runtime")
    assert finding.missing == words
    if words is None:
        assert finding.found.startswith(f"{next(iter(installed.values()))}, ")
    else:
        assert finding.mend.startswith("pip ")


def test_all_that_is_missing_has_a_reason_and_abilities_name_what_they_lack(invoke):
    result = invoke("doctor", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    missing = {each["name"] for each in told["findings"] if each["found"] is None}
    assert all(each["missing"] for each in told["findings"] if each["name"] in missing)
    for ability in told["abilities"]:
        assert set(ability["lacks"]) <= missing
