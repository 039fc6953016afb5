"""The user's words are checked before anything is opened."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from moe_export import MissingEnvironmentError, UsageError
from moe_export.spec import TARGETS, export_spec


@pytest.mark.parametrize("text", ["89", "sm_89", "8.9", 89, "SM89"])
def test_a_compute_capability_is_written_as_people_do(text):
    spec = export_spec("model.pt", target="trt-rtx", sms=(text, "120a", "12.0"))
    assert spec.engines is not None
    assert spec.engines.sms == (89, 120)


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ({"target": "trt-rtx", "sms": ("ada",)}, "--sm"),
        ({"target": "trt-rtx", "max_batch": 0}, "--max-batch"),
        ({"target": "trt-rtx", "max_tokens": 1 << 25}, "--max-tokens"),
        ({"sms": (89,)}, "--sm"),
        ({"max_image_tokens": 5}, "--max-image-tokens"),
        ({"target": "standard", "embed_plugins": True}, "--embed-plugins"),
    ],
)
def test_words_for_engines_that_cannot_be_meant_are_refused(words, where):
    with pytest.raises(UsageError) as error:
        export_spec("model.pt", **words)
    assert error.value.where == where


@pytest.mark.parametrize(
    ("target", "precision", "rows"),
    [
        ("trt-rtx", "int4", "bf16"),
        ("trt", "int8:32", "bf16"),
        ("trt", "int8@int16", "int16"),
        ("ort", "int4", "int8"),
        ("trt", "f16", "f32"),
    ],
)
def test_rows_that_meet_integers_are_bfloat16_on_a_gpu(target, precision, rows):
    assert export_spec("model.pt", target=target, precision=precision).precision.row_format == rows


def test_an_unknown_target_lists_those_there_are():
    with pytest.raises(UsageError) as error:
        export_spec("model.pt", target="coreml")
    assert all(name in error.value.hint for name in TARGETS)


def test_a_misspelt_target_is_guessed():
    with pytest.raises(UsageError) as error:
        export_spec("model.pt", target="standart")
    assert "'standard'" in error.value.hint


@pytest.mark.parametrize("text", ["int2", "int8:48", "INT8", "f32+zeros", "bf16:32", "", None])
def test_a_precision_that_cannot_be_meant_lists_those_there_are(text):
    with pytest.raises(UsageError, match="precision") as error:
        export_spec("model.pt", precision=text)
    assert error.value.where == "--precision"
    assert all(
        name in error.value.hint for name in ("f32", "bf16", "f16", "int8", "int4", "+zeros")
    )


@pytest.mark.parametrize("text", ["f32", "bf16", "f16", "int8", "int8:64", "int4:32+zeros"])
def test_a_precision_reads_back_as_it_was_named(text):
    assert str(export_spec("model.pt", precision=text).precision) == text


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("4GiB", 4 << 30),
        ("3.5G", 7 << 29),
        ("800 mib", 800 << 20),
        ("1T", 1 << 40),
        ("800MB", 800_000_000),
        ("5000000000", 5_000_000_000),
        ("7B", 7),
        (1 << 30, 1 << 30),
        (None, None),
    ],
)
def test_a_size_of_memory_is_read_as_gnu_s_tools_read_it(given, size):
    assert export_spec("model.pt", max_memory=given).max_memory == size


@pytest.mark.parametrize(
    "given", ["", "0", "-1", "1.5", "1.5B", "4Gi", "4GiBs", "4GiB\n", "GiB", "1e9", "0.0001K", 1.5]
)
def test_what_is_no_size_of_memory_is_refused_with_examples(given):
    with pytest.raises(UsageError, match="no size of memory") as error:
        export_spec("model.pt", max_memory=given)
    assert error.value.where == "--max-memory"
    assert "4GiB" in error.value.hint


@pytest.mark.parametrize("source", ["", None, b"model.pt"])
def test_a_model_must_be_named(source):
    with pytest.raises(UsageError):
        export_spec(source)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("file", "is a file"),
        ("file/bundle", "is not a folder"),
        ("gone/bundle", "is not a folder"),
    ],
)
def test_an_output_that_cannot_be_made_is_refused(tmp_path, monkeypatch, output, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(UsageError, match=message):
        export_spec("model.pt", output=output)


def test_an_output_may_be_new_or_a_folder(tmp_path):
    assert export_spec("model.pt", output=str(tmp_path / "new")).output == tmp_path / "new"
    assert export_spec("model.pt", output=tmp_path).output == tmp_path


def test_a_python_path_is_made_of_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export_spec("model.pt", python_path=["."]).python_path == (tmp_path,)
    assert export_spec("model.pt", python_path=str(tmp_path)).python_path == (tmp_path,)
    for folder in ("", "gone", __file__):
        with pytest.raises(UsageError, match="is not a folder"):
            export_spec("model.pt", python_path=[folder])


def test_checking_words_imports_no_framework():
    program = (
        "import sys, moe_export.spec\n"
        "assert not {'torch', 'onnx', 'onnx_ir', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_machine_that_only_runs_bundles_is_told_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    with pytest.raises(MissingEnvironmentError, match="exporting needs torch") as error:
        export_spec("model.pt")
    assert error.value.exit_code == 5
    assert "moe-export[export]" in str(error.value.hint)
