"""A bundle that is whole but wrong fails its validation, whatever its digests say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from moe_export import Bundle
from moe_export.bundle import bundle as write_bundle
from moe_export.capture import capture
from moe_export.forms import PortableModel, Report
from moe_export.load import load
from moe_export.lower import lower
from moe_export.manifest import FILE_NAME, FileRecord, Manifest
from moe_export.rewrite import rewrite
from moe_export.spec import export_spec
from moe_export.validate import validate

from . import tiny

DATA = "onnx/model.onnx.data"


def sign_anew(root: Path) -> Bundle:
    """Rewrite the digests of a spoilt bundle, as somebody who means harm would."""
    manifest = Manifest.from_json((root / FILE_NAME).read_bytes())
    files = {}
    for name in manifest.files:
        content = (root / name).read_bytes()
        files[name] = FileRecord(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    (root / FILE_NAME).write_text(replace(manifest, files=files).to_json())
    return Bundle.open(root)


@contextmanager
def weight(root: Path, name: str) -> Iterator[np.ndarray]:
    """A weight of the bundle, mapped from its data file, to be changed in place."""
    graph = onnx.load(root / "onnx/model.onnx", load_external_data=False).graph
    tensor = next(t for t in graph.initializer if t.name == name)
    where = {entry.key: entry.value for entry in tensor.external_data}
    mapped = np.memmap(
        root / DATA, np.float32, "r+", offset=int(where["offset"]), shape=tuple(tensor.dims)
    )
    yield mapped
    mapped.flush()


def failures(report: Report) -> set[str]:
    return {t.name for t in report.tensors if not t.passed} | {
        f"routing of {r.layer}" for r in report.routing if not r.passed
    }


def test_the_untouched_copy_passes(copied: Path) -> None:
    assert failures(validate(sign_anew(copied))) == set()


@pytest.mark.parametrize("expert", range(6))
def test_one_changed_number_in_any_expert_fails(copied: Path, expert: int) -> None:
    with weight(copied, "first.down") as down:
        down[expert, 3, 4] += 0.01 * np.abs(down).max()
    report = validate(sign_anew(copied))
    assert not report.passed
    assert "first/experts" in failures(report)


def test_two_exchanged_experts_fail(copied: Path) -> None:
    with weight(copied, "second.up") as up:
        up[[0, 4]] = up[[4, 0]]
    assert "second/experts" in failures(validate(sign_anew(copied)))


def test_a_changed_router_weight_fails(copied: Path) -> None:
    with weight(copied, "first.gate.weight") as gate:
        gate[2] *= -1
    assert "routing of first" in failures(validate(sign_anew(copied)))


def test_a_changed_selection_bias_fails_by_its_routing(copied: Path) -> None:
    graph = onnx.load(copied / "onnx/model.onnx", load_external_data=False).graph
    names = {tensor.name for tensor in graph.initializer}
    name = "second.bias" if "second.bias" in names else "second.correction_bias"
    with weight(copied, name) as bias:
        bias[1] += 5
    report = validate(sign_anew(copied))
    assert "routing of second" in failures(report)
    flips = [f for r in report.routing if r.layer == "second" for f in r.flips]
    assert flips
    assert any(flip.margin > flip.noise for flip in flips)


def test_a_changed_weight_outside_the_experts_fails(copied: Path) -> None:
    with weight(copied, "patches.weight") as patches:
        patches[0, 0] += 0.1
    assert "logits" in failures(validate(sign_anew(copied)))


@pytest.fixture(scope="module")
def portable() -> PortableModel:
    spec = export_spec(tiny.build(), example_inputs=tiny.example_inputs())
    return capture(rewrite(load(spec)))


def routers(model: PortableModel) -> Iterator[ir.Node]:
    for node in model.components["model"].graph.graph:
        if node.name in ("first/Router", "second/Router"):
            yield node


def with_router(model: PortableModel, **attributes: ir.Attr) -> PortableModel:
    """The portable model with attributes of the first two routers changed."""
    component = model.components["model"]
    changed = replace(
        model, components={"model": replace(component, graph=component.graph.clone())}
    )
    for node in routers(changed):
        for name, attribute in attributes.items():
            node.attributes[name] = attribute
    return changed


def report_of(model: PortableModel, place: Path) -> Report:
    place.mkdir()
    return validate(write_bundle(lower(model, "standard"), place))


def test_the_same_model_with_the_right_router_passes(
    portable: PortableModel, tmp_path: Path
) -> None:
    assert failures(report_of(with_router(portable), tmp_path / "right")) == set()


@pytest.mark.parametrize("top_k", [1, 3])
def test_a_wrong_top_k_fails(portable: PortableModel, tmp_path: Path, top_k: int) -> None:
    wrong = with_router(portable, top_k=ir.AttrInt64("top_k", top_k))
    report = report_of(wrong, tmp_path / "wrong")
    assert {"routing of first", "routing of second"} <= failures(report)
    agreements = {p.agreement for p in report.routing if p.layer in ("first", "second")}
    assert agreements == {0.0}


def test_a_wrong_score_fails(portable: PortableModel, tmp_path: Path) -> None:
    wrong = with_router(portable, score=ir.AttrString("score", "sigmoid_topk"))
    assert not report_of(wrong, tmp_path / "wrong").passed


def test_golden_tensors_of_a_real_run_are_neither_zero_nor_equal(bundle: Bundle) -> None:
    golden = bundle.golden()
    assert {case.name for case in golden.cases} >= {"example", "larger", "smaller", "single"}
    for case in golden.cases:
        for name, tensor in case.outputs.items():
            assert np.abs(tensor).max() > 0
            assert tensor.dtype == np.float32
            assert case.outputs_reference[name].dtype == np.float64
            assert torch.from_numpy(tensor).std() > 0
