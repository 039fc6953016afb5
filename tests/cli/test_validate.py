from __future__ import annotations

import json

import pytest

from moe_export.report.parity import to_json
from moe_export.runtime import Bundle
from moe_export.validate import validate


def test_the_verdict_comes_first_then_tensors_and_routing(invoke, bundle):
    result = invoke("validate", bundle)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "passed: the bundle reproduces the eager model (golden tensors)"
    for start in ("outputs ", "MoE layers ", "every expert ", "moes.0 ", "moes.1 "):
        assert any(line.startswith(start) for line in lines)


def test_json_is_the_whole_report(invoke, bundle):
    result = invoke("validate", bundle, "--json")
    told, made = json.loads(result.stdout), json.loads(to_json(validate(Bundle.open(bundle))))
    assert told["seconds"].keys() == made["seconds"].keys()
    assert told | {"seconds": None} == made | {"seconds": None}


def test_a_changed_weight_fails_with_4_and_says_where(invoke, spoiled, tmp_path):
    result = invoke("validate", spoiled, "--junit", tmp_path / "parity.xml")
    assert result.exit_code == 4
    assert result.stdout.startswith("failed: the bundle does not reproduce the eager model")
    assert "beyond tolerance" in result.stdout
    assert result.stderr.startswith("error: the bundle does not reproduce the eager model")
    report = json.loads(invoke("validate", spoiled, "--json").stdout)
    assert (tmp_path / "parity.xml").read_text().count("<failure ") == _failures(report)


def test_what_fails_is_put_down_to_a_module_and_the_line_of_its_class(invoke, spoiled):
    report = json.loads(invoke("validate", spoiled, "--json").stdout)
    failing = (*report["tensors"], *report["routing"])
    assert report["attribution"]
    assert {found["case"] for found in report["attribution"]} == {
        part["case"] for part in failing if not part["passed"]
    }
    shown = invoke("validate", spoiled).stdout
    assert "first to differ\n" in shown
    for found in report["attribution"]:
        assert f"({found['source']})" in shown
        assert "/" not in found["source"]


def test_replay_gives_each_tensor_a_second_error(invoke, bundle):
    plain, replayed = (
        json.loads(invoke("validate", bundle, "--json", *also).stdout)
        for also in ((), ("--replay",))
    )
    assert {t["replayed_error"] for t in plain["tensors"]} == {None}
    for tensor in replayed["tensors"]:
        assert (tensor["replayed_error"] is None) == (tensor["kind"] == "expert")


def _failures(report):
    assert report["passed"] is False
    return sum(not part["passed"] for part in (*report["tensors"], *report["routing"]))


def test_a_junit_file_that_cannot_be_written_is_an_error_of_use(invoke, bundle, tmp_path):
    result = invoke("validate", bundle, "--junit", tmp_path / "no folder" / "x.xml")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_the_live_model_is_matched_on_fresh_inputs(invoke, bundle, checkpoint, python_path):
    result = invoke("validate", bundle, "--source", checkpoint, *python_path, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["against"] == "live tiny.pt, fresh inputs"
    assert {tensor["case"] for tensor in report["tensors"]} >= {"fresh 1", "fresh 2"}


def test_a_model_of_other_weights_fails_and_is_called_that(invoke, bundle, python_path):
    result = invoke("validate", bundle, "--source", "tiny_vlm:other_weights", *python_path)
    assert result.exit_code == 4
    assert "warning: the weights of tiny_vlm:other_weights are not those" in result.stderr


@pytest.mark.parametrize(
    ("factory", "how"),
    [
        ("other_layers", "the MoE layer moes.1 is only in one of them"),
        ("other_inputs", "it takes tokens, the bundle takes image, tokens"),
        ("other_width", "it takes image float32 [3, 2, 3], the bundle image float32 [batch, 2, 2]"),
    ],
)
def test_a_model_that_is_another_one_is_refused(invoke, bundle, python_path, factory, how):
    result = invoke("validate", bundle, "--source", f"tiny_vlm:{factory}", *python_path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert how in result.stderr
    assert "the bundle was made of tiny.pt" in result.stderr


def test_v_shows_the_cause_of_a_failing_factory(invoke, bundle, python_path):
    words = ("validate", bundle, "--source", "tiny_vlm:broken", *python_path)
    quiet, loud = invoke(*words), invoke(*words, "-v")
    assert quiet.exit_code == loud.exit_code == 2
    assert "Traceback" not in quiet.stderr
    assert 'raise RuntimeError("the weights are on the moon")' in loud.stderr
    assert loud.stderr.endswith(quiet.stderr)
