"""A golden file with the right digest and the wrong insides is refused when it is read."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from attacks.hostile import replace_file
from moe_export.errors import UnsafeInputError
from moe_export.runtime import Bundle

NAME = "golden/golden.safetensors"
METADATA = {"moe_export.golden": json.dumps({"cases": ["example"], "components": ["model"]})}


def safetensors_file(header: bytes | dict, data: bytes = b"") -> bytes:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def saved(tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = METADATA) -> bytes:
    return safetensors.numpy.save(tensors, metadata=metadata)


def said(**changes: np.ndarray | None) -> bytes:
    """A file of one continuation, some of its tensors others or left out."""
    tensors = {
        "ids": np.ones((1, 2), np.int64),
        "positions": np.ones((1, 2), np.int64),
        "modality": np.ones((1, 2), np.uint8),
        "likeliest": np.ones((3, 5), np.int64),
        "log_probabilities": np.zeros((3, 5)),
    }
    kept = {name: x for name, x in (tensors | changes).items() if x is not None}
    facts = {"cases": [], "components": [], "continuations": ["text"]}
    metadata = {"moe_export.golden": json.dumps(facts)}
    return saved({f"continuations/0/{name}": x for name, x in kept.items()}, metadata)


def tensor(start: int, stop: int, shape: list[int]) -> dict:
    facts = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
    return {"__metadata__": METADATA, "cases/0/inputs/x": facts}


NOBODY_KNOWS = {"cases/0/modality": np.zeros((0, 0), np.uint8)}
ONE = {"cases/0/inputs/x": np.zeros(1, np.float32)}

ATTACKS = {
    "empty file": (b"", "header says"),
    "cut in the length": (b"\1\0\0", "header says"),
    "header of 8 EiB": (struct.pack("<Q", 2**63 - 1) + b"{}", "header says"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", "header says"),
    "header of 128 MiB in a file as large": (struct.pack("<Q", 2**27) + bytes(2**27), "header"),
    "no JSON": (safetensors_file(b"nothing"), "not a safetensors file"),
    "offsets beyond the data": (safetensors_file(tensor(0, 4000, [1000])), "not a safetensors"),
    "offsets backwards": (safetensors_file(tensor(4, 0, [1]), bytes(4)), "not a safetensors"),
    "more shape than data": (safetensors_file(tensor(0, 4, [2**40]), bytes(4)), "not a safetens"),
    "shape that overflows": (
        safetensors_file(tensor(0, 4, [2**33, 2**33]), bytes(4)),
        "not a safetensors",
    ),
    "hole between tensors": (safetensors_file(tensor(4, 8, [1]), bytes(8)), "not a safetensors"),
    "bytes behind the data": (safetensors_file(tensor(0, 4, [1]), bytes(99)), "not a safetensors"),
    "no metadata": (saved(ONE, None), "metadata"),
    "metadata that is no JSON": (saved(ONE, {"moe_export.golden": "{"}), "not acceptable JSON"),
    "metadata with a key more": (
        saved(ONE, {"moe_export.golden": '{"cases": [], "components": [], "x": 1}'}),
        "unknown key 'x'",
    ),
    "a case of no component": (
        saved(ONE, {"moe_export.golden": '{"cases": ["example"], "components": []}'}),
        "1 cases have 0 components",
    ),
    "a case that is not named": (saved({"cases/1/inputs/x": ONE["cases/0/inputs/x"]}), "unknown g"),
    "a case number in disguise": (saved({"cases/00/inputs/x": np.zeros(1)}), "unknown golden"),
    "a group that does not exist": (saved({"cases/0/weights/x": np.zeros(1)}), "unknown golden"),
    "a tensor without a name": (saved({"cases/0/inputs/": np.zeros(1)}), "unknown golden"),
    "a tensor from nowhere": (saved({"evil": np.zeros(1)}), "unknown golden tensor 'evil'"),
    "a layer with one tensor": (saved({"cases/0/layers/a/x": np.zeros(1)}), "missing or unknown"),
    "an output without a reference": (
        saved({"cases/0/outputs/y": np.zeros(1), **NOBODY_KNOWS}),
        "in part only",
    ),
    "an edge error of many numbers": (
        saved(
            {
                "cases/0/outputs/y": np.zeros(2),
                "cases/0/outputs_reference/y": np.zeros(2),
                "cases/0/outputs_edge_error/y": np.zeros(2),
                "cases/0/outputs_rewritten_error/y": np.zeros(()),
                **NOBODY_KNOWS,
            }
        ),
        "not one number",
    ),
    "an expert with a strange tensor": (
        saved({"experts/a/pickle": np.zeros(1), **NOBODY_KNOWS}),
        "missing or unk",
    ),
    "a case of tokens of nobody knows what": (saved(ONE), "does not say what its tokens are of"),
    "a modality that is none": (
        saved({"cases/0/modality": np.full((1, 1), 200, np.uint8)}),
        "not of modalities",
    ),
    "a modality in another type": (
        saved({"cases/0/modality": np.zeros((1, 1), np.int64)}),
        "not of modalities",
    ),
    "a continuation that is not named": (
        saved({"continuations/0/ids": np.zeros((1, 1), np.int64)}),
        "unknown golden",
    ),
    "a continuation in part": (said(likeliest=None), "missing tensors"),
    "a continuation in other types": (said(ids=np.zeros((1, 2))), "of other types"),
    "a continuation of no steps": (
        said(likeliest=np.zeros((0, 5), np.int64), log_probabilities=np.zeros((0, 5))),
        "odd shapes",
    ),
    "a continuation without positions for its tokens": (
        said(positions=np.zeros((1, 7), np.int64)),
        "odd shapes",
    ),
    "a continuation with a strange tensor": (said(pickle=np.zeros(1)), "unknown tensor 'pickle'"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_golden_file_is_refused(victim, attack):
    content, message = ATTACKS[attack]
    replace_file(victim, NAME, content)
    bundle = Bundle.open(victim)
    with pytest.raises(UnsafeInputError) as refusal:
        bundle.golden()
    assert refusal.value.exit_code == 7
    assert message in refusal.value.message
    assert NAME in refusal.value.where


def test_a_golden_file_cut_after_opening_is_refused(victim):
    bundle = Bundle.open(victim)
    content = (victim / NAME).read_bytes()
    (victim / NAME).write_bytes(content[:-4])
    with pytest.raises(UnsafeInputError, match="bytes, the manifest says"):
        bundle.golden()


def test_an_asset_changed_after_opening_is_refused(victim):
    bundle = Bundle.open(victim)
    content = (victim / "tokenizer.json").read_bytes()
    (victim / "tokenizer.json").write_bytes(content.replace(b"seven", b"eight"))
    with pytest.raises(UnsafeInputError, match="SHA-256"):
        bundle.asset("tokenizer.json")
