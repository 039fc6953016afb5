"""Two reports side by side, and the words of the command that shows them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from moe_export.cli import program
from moe_export.errors import UsageError
from moe_export.report.diff import diff
from moe_export.report.diff_text import tables
from moe_export.report.parity import to_json
from report.make_fixtures import FIXTURES

PASSED, FAILED = (str(FIXTURES / f"{name}.json") for name in ("passed", "failed"))


def invoke(*words):
    return CliRunner().invoke(program, [str(word) for word in words])


def test_a_report_beside_itself_differs_in_nothing(failed):
    same = diff(failed, failed)
    assert not same.only_a
    assert not same.only_b
    assert all(each.a == each.b for each in same.tensors)
    assert all(each.a == each.b and each.moved == 0.0 for each in same.routing)


def test_the_two_are_named_by_their_worst_common_case(passed, failed):
    made = {each.name: each for each in diff(passed, failed).tensors}
    assert made.keys() == {tensor.name for tensor in passed.tensors}
    logits = [t.relative_error for t in passed.tensors if t.name == "logits"]
    assert made["logits"].a == max(logits)
    assert made["logits"].cases == len(logits)


def test_a_load_that_moves_one_choice_of_four_has_moved_a_quarter(passed):
    load = replace(passed.loads[0], choices=(2, 2, 0), modality="any")
    other = replace(load, choices=(2, 1, 1))
    made = diff(replace(passed, loads=(load,)), replace(passed, loads=(other,)))
    moved = {each.layer: each.moved for each in made.routing}
    assert moved.pop(load.layer) == 0.25
    assert set(moved.values()) == {None}


def test_reports_of_two_models_are_refused(passed):
    other = replace(passed, tensors=(replace(passed.tensors[0], name="another"),))
    with pytest.raises(UsageError, match="no tensor in common"):
        diff(passed, other)


def test_what_only_one_has_is_said(passed):
    name = "logits"
    left = tuple(tensor for tensor in passed.tensors if tensor.name != name)
    fewer = replace(passed, tensors=left, nbytes={"weights": 7})
    assert diff(passed, fewer).only_a == (name,)
    words = tables(diff(passed, fewer))
    assert f"only in A: 1 tensor, {name} among them" in words
    assert any(line.split() == ["golden", "2.05", "MiB", "none"] for line in words.splitlines())


def test_the_command_shows_both_verdicts_and_sizes_and_exits_with_0():
    result = invoke("diff", PASSED, FAILED)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["verdict", "passed", "failed"] in lines
    assert any(line[:1] == ["weights"] for line in lines)


def test_json_is_the_whole_comparison(passed, failed):
    said = json.loads(invoke("diff", PASSED, FAILED, "--json").stdout)
    made = diff(passed, failed)
    assert len(said["tensors"]) == len(made.tensors)
    assert said["a"]["precision"] == "f32"
    assert said["b"]["rounding"]["outputs"].keys() == failed.rounding.outputs.keys()
    assert said["nbytes"]["weights"] == {
        "a": passed.nbytes["weights"],
        "b": failed.nbytes["weights"],
    }


def test_another_source_is_a_warning(passed, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(to_json(replace(passed, source="another.pt")))
    result = invoke("diff", PASSED, other)
    assert result.exit_code == 0
    assert result.stderr == "warning: one is of tiny-vl, the other of another.pt\n"


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 2), (b"", 7), (b"[]", 7), (b'{"schema_version": true}', 7), (b"\xff", 7)],
    ids=["absent", "empty", "a list", "no version", "no text"],
)
@pytest.mark.parametrize("command", ["diff", "report"])
def test_what_is_no_report_has_a_documented_exit_code(tmp_path, command, content, code):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    words = [command, PASSED, path] if command == "diff" else [command, path]
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert f"at: {path}" in result.stderr
