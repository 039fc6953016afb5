from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.toy import block_record
from moe_export.errors import UnsafeInputError
from moe_export.forms import KernelNeeds, OutputCost, RoundingCost, Source
from moe_export.manifest import (
    MAX_BYTES,
    ComponentRecord,
    FileRecord,
    Manifest,
    OpSet,
    TensorInfo,
    Tool,
    check_path,
)
from moe_export.moe.quantize import Precision
from moe_export.strict_json import MAX_DEPTH

RECORD = FileRecord(sha256="0f" * 32, bytes=7)


def manifest(**changes) -> Manifest:
    component = ComponentRecord(
        graph="onnx/model.onnx",
        probe_graph="onnx/model.probe.onnx",
        expert_graph="onnx/model.experts.onnx",
        replay_graph="onnx/model.replay.onnx",
        engine_graph=None,
        plugins=(),
        data="onnx/model.onnx.data",
        also_reads=(),
        inputs=(TensorInfo(name="tokens", dtype="int64", shape=("batch", None, 8)),),
        outputs=(),
        probes={"layers.0": {"x": "value_3"}},
        layers=("layers.0",),
        modules={"layers.0": "model.py:12"},
        dense=("head.weight",),
        in_place={},
    )
    paths = (*component.graphs, component.data, "golden/golden.safetensors", "tokenizer.json")
    whole = Manifest(
        tool=Tool(name="moe-export", version="1"),
        versions={"torch": "2"},
        source=Source(description="mödel.pt", fingerprint="00"),
        target="standard",
        kernels=KernelNeeds(abi=1, panels=1),
        precision=Precision("int4", block_size=64, zeros=True),
        dense_precision=Precision("int8"),
        rounding=RoundingCost(
            outputs={"y": OutputCost(relative_error=0.01, cosine=0.999)}, routing={"a": 1.0}
        ),
        ops=OpSet(domain="moe_export", version=1),
        components={"model": component},
        engines=(),
        blocks=(block_record(),),
        unused={"a.b": "why"},
        functions={},
        parameters=3,
        assets=("tokenizer.json",),
        golden="golden/golden.safetensors",
        verdict="passed",
        files=dict.fromkeys(paths, RECORD),
    )
    return replace(whole, **changes)


def edited(edit) -> str:
    """The manifest's text after ``edit`` of its JSON object; its digest no longer fits."""
    value = json.loads(manifest().to_json())
    edit(value)
    return json.dumps(value)


def test_a_manifest_comes_back_equal_and_renders_the_same_text():
    text = manifest().to_json()
    assert Manifest.from_json(text) == manifest()
    assert Manifest.from_json(text).to_json() == text


def test_the_order_of_mappings_does_not_reach_the_text():
    backwards = dict(reversed(manifest().files.items()))
    assert manifest(files=backwards).to_json() == manifest().to_json()


def test_the_text_is_ascii_with_unix_line_ends():
    text = manifest().to_json()
    assert text.isascii()
    assert "\r" not in text
    assert text.endswith("}\n")


@given(position=st.integers(0, len(manifest().to_json()) - 1), byte=st.integers(0, 255))
def test_no_changed_byte_is_read(position, byte):
    content = bytearray(manifest().to_json().encode())
    if content[position] == byte:
        return
    content[position] = byte
    with pytest.raises(UnsafeInputError):
        Manifest.from_json(bytes(content))


@pytest.mark.parametrize(
    ("edit", "field", "message"),
    [
        (lambda m: m.update(schema_version=1), "schema_version", "unknown schema version 1"),
        (lambda m: m.update(schema_version=True), "schema_version", "unknown schema version"),
        (lambda m: m.pop("schema_version"), "schema_version", "unknown schema version None"),
        (lambda m: m.update(extra=1), None, "unknown key 'extra'"),
        (lambda m: m.pop("golden"), None, "key 'golden' is missing"),
        (lambda m: m["source"].pop("fingerprint"), "source", "'fingerprint' is missing"),
        (lambda m: m["blocks"][0].pop("reason"), "blocks[0]", "'reason' is missing"),
        (
            lambda m: m["blocks"][0]["layer"]["router"].update(top_k=9),
            "blocks[0].layer.router",
            "top_k must be in 1..4",
        ),
        (lambda m: m.update(parameters="3"), "parameters", "expected an integer, got text"),
        (lambda m: m.update(parameters=True), "parameters", "got true or false"),
        (lambda m: m.update(parameters=-1), None, "negative"),
        (lambda m: m.update(parameters=2**63), "parameters", "64 bits"),
        (lambda m: m.update(verdict="great"), "verdict", "expected one of"),
        (lambda m: m.pop("kernels"), None, "key 'kernels' is missing"),
        (lambda m: m["kernels"].update(abi="1"), "kernels.abi", "an integer"),
        (lambda m: m["precision"].update(format="int2"), "precision.format", "expected one of"),
        (lambda m: m["precision"].update(block_size=7), "precision", "blocks"),
        (lambda m: m["rounding"].update(outputs={}), "rounding", "an output at least"),
        (lambda m: m.update(assets={"a": 1}), "assets", "expected a list"),
        (lambda m: m.update(assets=["missing.json"]), None, "'missing.json' is not in files"),
        (lambda m: m.update(golden="../golden"), None, "is not in files"),
        (lambda m: m.update(components={}), None, "components is empty"),
        (
            lambda m: m["components"]["model"].update(in_place={"y": "tokens"}),
            "components.model",
            "in_place has 'y' where 'tokens' lies",
        ),
        (
            lambda m: m["components"]["model"]["inputs"][0]["shape"].append(-1),
            "components.model.inputs[0]",
            "negative dimension",
        ),
        (
            lambda m: m["components"]["model"]["probes"].update(a={"z": "v"}),
            "components.model",
            "probe 'z'",
        ),
        (
            lambda m: m["files"]["tokenizer.json"].update(sha256="0F" * 32),
            "files.tokenizer.json",
            "sha256",
        ),
        (lambda m: m["files"]["tokenizer.json"].update(bytes=-1), "files.tokenizer.json", "neg"),
        (lambda m: m["files"]["tokenizer.json"].update(bytes=1.5), "tokenizer.json.bytes", "num"),
        (lambda m: m["unused"].update(a="\ud800"), "unused.a", "surrogate"),
        (lambda m: m.update(digest=None), "digest", "hexadecimal"),
        (lambda m: m.update(target="trt"), "digest", "changed after it was written"),
    ],
)
def test_a_wrong_field_is_refused_by_name(edit, field, message):
    with pytest.raises(UnsafeInputError) as refusal:
        Manifest.from_json(edited(edit))
    assert message in refusal.value.message
    assert refusal.value.where.startswith("moe_export.json")
    if field is not None:
        assert field in refusal.value.where


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not acceptable JSON"),
        (b"[]", "object"),
        (b"\xff{}", "utf-8"),
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "not acceptable JSON"),
        (b"[" * 1_000_000, "nested deeper"),
        (b'{"a":' * 1_000_000, "nested deeper"),
        (b'"' + b'\\"' * 1_000_000, "not acceptable JSON"),
        (b" " * (MAX_BYTES + 1), "more than"),
    ],
)
def test_text_that_is_not_one_json_object_is_refused(content, message):
    with pytest.raises(UnsafeInputError) as refusal:
        Manifest.from_json(content)
    assert message in refusal.value.message
    assert refusal.value.exit_code == 7


def test_a_number_too_large_for_a_float_is_refused_where_it_stands():
    text = manifest().to_json().replace("1e-13", "1e999")
    with pytest.raises(UnsafeInputError, match="not finite") as refusal:
        Manifest.from_json(text)
    assert "blocks[0].proof.tolerance" in refusal.value.where


def test_brackets_inside_text_do_not_count_as_nesting():
    deep = manifest(unused={"a": "[{" * 10 * MAX_DEPTH})
    assert Manifest.from_json(deep.to_json()) == deep


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/..",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "a\\b",
        "c:/x",
        "a\0b",
        "a\nb",
        "x" * 256,
        "é" * 128,
        "/".join(["x" * 200] * 11),
    ],
)
def test_a_path_that_could_leave_the_bundle_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        check_path(path)
    with pytest.raises(UnsafeInputError, match="path"):
        Manifest.from_json(edited(lambda m: m["files"].update({path: m["files"].popitem()[1]})))


@pytest.mark.parametrize("path", ["a", "onnx/model.onnx", "..a/b..", "x" * 255, "mödel.json"])
def test_an_ordinary_path_is_accepted(path):
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("moe_export.json",), "manifest itself"),
        (("MOE_EXPORT.json",), "manifest itself"),
        (("Tokenizer.JSON",), "twice"),
        (("reports", "reports/a"), "as a file and as a folder"),
        (("onnx/model.onnx/x",), "as a file and as a folder"),
    ],
)
def test_names_that_meet_on_some_file_system_are_refused(paths, message):
    files = manifest().files | dict.fromkeys(paths, RECORD)
    with pytest.raises(ValueError, match=message):
        manifest(files=files)
