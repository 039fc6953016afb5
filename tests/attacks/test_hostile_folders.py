"""A folder that is not exactly what its manifest lists is refused, and the file is named."""

from __future__ import annotations

import os
import shutil

import pytest

from attacks.hostile import edit_manifest
from moe_export.errors import UnsafeInputError
from moe_export.runtime import Bundle

DATA = "onnx/model.onnx.data"
SECRET = "a secret of the machine"  # noqa: S105


def flip(path, position=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def link_file(root):
    outside = root.parent / "outside"
    outside.write_bytes((root / DATA).read_bytes())
    (root / DATA).unlink()
    (root / DATA).symlink_to(outside)


def link_folder(root):
    shutil.move(root / "onnx", root.parent / "elsewhere")
    (root / "onnx").symlink_to(root.parent / "elsewhere")


def link_within(root):
    (root / "tokenizer.json").rename(root / "onnx/tokenizer.json")
    (root / "tokenizer.json").symlink_to("onnx/tokenizer.json")


def pipe(root):
    (root / "tokenizer.json").unlink()
    os.mkfifo(root / "tokenizer.json")


def folder_for_file(root):
    (root / "tokenizer.json").unlink()
    (root / "tokenizer.json").mkdir()


def truncated(root):
    content = (root / DATA).read_bytes()
    (root / DATA).write_bytes(content[:-1])


def extended(root):
    with (root / DATA).open("ab") as file:
        file.write(b"\0")


def listed_only_by_name(name, record):
    return lambda root: edit_manifest(root, lambda m: m["files"].update({name: record}))


def rewritten(edit):
    return lambda root: edit_manifest(root, edit)


ATTACKS = {
    "one byte of a weight": (lambda r: flip(r / DATA, 5), "SHA-256", DATA),
    "one byte of a graph": (lambda r: flip(r / "onnx/model.onnx", 5), "SHA-256", "model.onnx"),
    "one byte of a report": (lambda r: flip(r / "reports/parity.json"), "SHA-256", "parity.json"),
    "one byte of a golden": (lambda r: flip(r / "golden/golden.safetensors", 99), "SHA", "golden"),
    "truncated weights": (truncated, "bytes, the manifest says", DATA),
    "extended weights": (extended, "bytes, the manifest says", DATA),
    "missing file": (lambda r: (r / "tokenizer.json").unlink(), "missing", "tokenizer.json"),
    "extra file": (lambda r: (r / "onnx/x.so").write_text(""), "not listed", "onnx/x.so"),
    "extra hidden file": (lambda r: (r / ".x").write_text(""), "not listed", ".x"),
    "extra folder": (lambda r: (r / "plugins").mkdir(), "not listed", "plugins"),
    "linked file": (link_file, "symbolic link", DATA),
    "linked folder": (link_folder, "not listed", "onnx"),
    "link to another file of the bundle": (link_within, "not listed", "tokenizer.json"),
    "dangling link beside": (lambda r: (r / "x").symlink_to("nowhere"), "not listed", "x"),
    "pipe": (pipe, "not a regular file", "tokenizer.json"),
    "folder in place of a file": (folder_for_file, "not a regular file", "tokenizer.json"),
    "empty manifest": (lambda r: (r / "moe_export.json").write_text(""), "JSON", "moe_export.json"),
    "manifest of zeros": (
        lambda r: (r / "moe_export.json").write_bytes(bytes(100)),
        "JSON",
        "moe_export.json",
    ),
    "linked manifest": (
        lambda r: (
            (r / "moe_export.json").rename(r.parent / "m.json"),
            (r / "moe_export.json").symlink_to(r.parent / "m.json"),
        ),
        "symbolic link",
        "moe_export.json",
    ),
    "size of 4 EiB": (
        listed_only_by_name(DATA, {"sha256": "00" * 32, "bytes": 2**62, "pieces": []}),
        f"the manifest says {2**62}",
        DATA,
    ),
    "size beyond 64 bits": (
        listed_only_by_name(DATA, {"sha256": "00" * 32, "bytes": 2**70, "pieces": []}),
        "64 bits",
        f"field files.{DATA}.bytes",
    ),
    "path above the bundle": (
        listed_only_by_name("../secret", {"sha256": "00" * 32, "bytes": len(SECRET), "pieces": []}),
        "segment '..'",
        "moe_export.json",
    ),
    "absolute path": (
        listed_only_by_name("/etc/hostname", {"sha256": "00" * 32, "bytes": 1, "pieces": []}),
        "absolute",
        "moe_export.json",
    ),
    "asset above the bundle": (
        rewritten(lambda m: m.update(assets=["../secret"])),
        "not in files",
        "moe_export.json",
    ),
    "graph above the bundle": (
        rewritten(lambda m: m["components"]["model"].update(graph="../onnx/model.onnx")),
        "not in files",
        "moe_export.json",
    ),
    "data of another kind": (
        rewritten(lambda m: m["components"]["model"].update(data="tokenizer.json")),
        "not the component's own",
        "onnx/model.onnx",
    ),
    "unknown schema version": (
        rewritten(lambda m: m.update(schema_version=99)),
        "unknown schema version 99",
        "moe_export.json",
    ),
    "edited manifest with the old digest": (
        lambda r: (r / "moe_export.json").write_text(
            (r / "moe_export.json").read_text().replace("toy.pt", "you.pt")
        ),
        "changed after it was written",
        "moe_export.json",
    ),
    "a key twice": (
        lambda r: (r / "moe_export.json").write_text(
            (r / "moe_export.json").read_text().replace("{", '{"target": "trt",', 1)
        ),
        "key 'target' occurs twice",
        "moe_export.json",
    ),
    "nesting that would exhaust the stack": (
        lambda r: (r / "moe_export.json").write_text('{"a":' * 100_000),
        "nested deeper",
        "moe_export.json",
    ),
    "not a number": (
        lambda r: (r / "moe_export.json").write_text(
            (r / "moe_export.json").read_text().replace("1e-13", "NaN")
        ),
        "NaN is not a JSON number",
        "moe_export.json",
    ),
    "control characters for the terminal": (
        rewritten(lambda m: m.update({"\x1b[2J": 1})),
        "unknown key",
        "moe_export.json",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_folder_is_refused_and_the_file_named(victim, attack):
    (victim.parent / "secret").write_text(SECRET)
    act, message, name = ATTACKS[attack]
    act(victim)
    with pytest.raises(UnsafeInputError) as refusal:
        Bundle.open(victim)
    assert refusal.value.exit_code == 7
    assert message in refusal.value.message
    assert name in refusal.value.where
    assert SECRET not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)


def test_a_manifest_too_large_is_refused_before_it_is_read(victim):
    os.truncate(victim / "moe_export.json", 2**40)  # sparse: 1 TiB that takes no space
    with pytest.raises(UnsafeInputError, match="more than") as refusal:
        Bundle.open(victim)
    assert "moe_export.json" in refusal.value.where


@pytest.mark.parametrize(
    "attack",
    sorted(set(ATTACKS) - {name for name in ATTACKS if name.startswith("one byte")}),
)
def test_leaving_out_the_digests_leaves_out_nothing_else(victim, attack):
    (victim.parent / "secret").write_text(SECRET)
    ATTACKS[attack][0](victim)
    with pytest.raises(UnsafeInputError):
        Bundle.open(victim, verify=False)


def test_a_bundle_reached_through_a_link_of_the_user_opens(victim):
    (victim.parent / "latest").symlink_to(victim)
    assert Bundle.open(victim.parent / "latest").path == victim.resolve()
