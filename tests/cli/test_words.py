"""How words become a command, and what is said of words that cannot be meant."""

from __future__ import annotations

import pytest

import moe_export
from moe_export import pipeline
from moe_export.cli.options import default_output


def said(result):
    """The error, place and hint of a refusal that kept standard output clean."""
    assert result.stdout == ""
    lines = dict(line.split(": ", 1) for line in result.stderr.splitlines())
    assert list(lines) in (["error", "at", "hint"], ["error", "hint"], ["error", "at"])
    return lines


@pytest.mark.parametrize(
    "words",
    [
        ("--target", "coreml", "model.pt"),
        ("model.pt", "--target", "coreml"),
        ("model.pt", "-o", "b.moe", "--target=coreml"),
        ("export", "model.pt", "--target", "coreml"),
        ("--force", "--target", "coreml", "--", "model.pt"),
    ],
)
def test_a_target_that_is_unknown_is_refused_plainly_wherever_its_option_stands(invoke, words):
    result = invoke(*words)
    assert result.exit_code == 2
    assert said(result)["error"] == "unknown target 'coreml'"


def test_without_any_word_there_is_help(invoke):
    result = invoke()
    assert result.exit_code == 0
    assert result.stdout == invoke("--help").stdout
    assert "Exit codes:" in result.stdout


def test_the_version_is_the_package_s(invoke):
    assert invoke("--version").stdout == f"moe-export {moe_export.__version__}\n"


@pytest.mark.parametrize(
    ("word", "command"), [("insepct", "inspect"), ("validat", "validate"), ("runn", "run")]
)
def test_a_misspelt_command_is_named(invoke, word, command):
    result = invoke(word, "b")
    assert result.exit_code == 2
    assert said(result)["hint"] == f"did you mean moe-export {command}?"


def test_a_file_with_a_misspelt_name_is_a_model(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "insepct").write_bytes(b"not a model")
    result = invoke("insepct", "--target", "coreml")
    assert said(result)["error"] == "unknown target 'coreml'"


def test_a_model_called_like_a_command_is_reached_by_its_path(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inspect").write_bytes(b"not a model")
    assert said(invoke("./inspect", "--target", "coreml"))["error"] == "unknown target 'coreml'"
    refused = invoke("inspect")
    assert refused.exit_code == 2
    assert said(refused)["hint"] == "a model of that name is reached as ./inspect"


def test_a_command_behind_its_options_is_not_taken_for_a_model(invoke):
    result = invoke("--json", "inspect", "model.moe")
    assert result.exit_code == 2
    assert "put it first: moe-export inspect" in said(result)["hint"]


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (("m.pt", "--forse"), "no such option --forse", "did you mean --force?"),
        (("m.pt", "--python-path"), "option '--python-path' requires an argument", None),
        (("m.pt", "more"), "got unexpected extra argument (more)", "moe-export export --help"),
        (
            ("m.pt", "--max-memory", "plenty"),
            "'plenty' is no size of memory",
            "for example 4GiB, 3.5G, 800MiB, or a number of bytes",
        ),
        (("plan", "m.pt", "--max-memory", "0"), "'0' is no size of memory", None),
        (("validate",), "no BUNDLE was named", "moe-export validate --help"),
        (("m.pt", "--target", "trtt"), "unknown target 'trtt'", "did you mean 'trt'?"),
        (("run", "b", "--prompt", "x", "--max-new-tokens", "many"), None, "moe-export run --help"),
        (("run", "b"), "one of --prompt and --inputs is needed", "moe-export run --help"),
        (("run", "b", "--inputs", "i", "--image", "x"), None, "moe-export run --help"),
        (("run", "b", "--prompt", "x", "--output", "o"), "--output goes with --inputs", None),
        (("validate", "b", "--trust-pickle"), None, "moe-export validate --help"),
        (("inspect", "nowhere/"), None, None),
    ],
)
def test_words_that_cannot_be_meant_are_refused_in_three_lines(invoke, words, error, hint):
    result = invoke(*words)
    assert result.exit_code == 2
    lines = said(result)
    assert error is None or lines["error"].lower() == error.lower()
    assert hint is None or lines["hint"] == hint


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("model.pt", "model.moe"),
        ("some/folder/model.v2.pt", "model.v2.moe"),
        ("my_package.models:tiny", "tiny.moe"),
        ("checkpoints/qwen/", "qwen.moe"),
    ],
)
def test_the_default_output_is_named_after_the_model(model, output):
    assert default_output(model) == output


def test_a_bug_stays_a_traceback_and_asks_to_be_reported(invoke, monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "run", lambda spec, announce: 1 / 0)
    result = invoke("model.pt", "-o", tmp_path / "b")
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code == 1
    (note,) = result.exception.__notes__
    assert note.startswith("This is a bug in moe-export")


def test_an_interrupt_exits_with_130(invoke, monkeypatch, tmp_path):
    def interrupted(spec, announce):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupted)
    result = invoke("model.pt", "-o", tmp_path / "b")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_a_parity_failure_exits_with_4(invoke, monkeypatch, tmp_path):
    def failing(spec, announce):
        raise moe_export.ParityError("the bundle does not reproduce it", where="b.rejected")

    monkeypatch.setattr(pipeline, "run", failing)
    result = invoke("model.pt", "-o", tmp_path / "b")
    assert result.exit_code == 4
    assert said(result) == {"error": "the bundle does not reproduce it", "at": "b.rejected"}
