"""A precision goes through the whole line: stored, run, and held against what it should be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch

import moe_export
from moe_export import (
    Bundle,
    MissingEnvironmentError,
    Session,
    UnsafeInputError,
    UnsupportedError,
    ondisk,
)
from moe_export.bundle import bundle as write_bundle
from moe_export.capture import Rounding, capture, capture_live
from moe_export.forms import MarkedModel, PortableModel
from moe_export.load import load
from moe_export.lower import lower
from moe_export.moe.packing import unpack
from moe_export.moe.quantize import parse_precision, quantize, quantize_to_bytes
from moe_export.moe.schema import STORAGE
from moe_export.rewrite import rewrite
from moe_export.spec import export_spec
from moe_export.validate import validate
from moe_export.validate.tensors import EAGER_FACTOR, EDGE_FACTOR

from . import tiny
from .conftest import Made, inputs_of
from .test_broken_bundles import DATA, failures, sign_anew

PRECISIONS = ("f32", "bf16", "f16", "int8", "int8:32+zeros", "int4", "int4:64+zeros")
MATRICES = {f"{layer}.{role}" for layer in ("first", "second", "third") for role in ("up", "down")}


@pytest.fixture(scope="module")
def marked() -> MarkedModel:
    return rewrite(load(export_spec(tiny.build(), example_inputs=tiny.example_inputs())))


@pytest.fixture(scope="module", params=PRECISIONS)
def portable(request: pytest.FixtureRequest, marked: MarkedModel) -> PortableModel:
    return capture(marked, parse_precision(request.param))


@pytest.fixture(scope="module")
def both(portable: PortableModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    return {
        target: write_bundle(lower(portable, target), tmp_path_factory.mktemp(target))
        for target in ("ort", "standard")
    }


def test_each_target_reproduces_the_rounded_model(both: dict[str, Bundle]) -> None:
    for target, bundle in both.items():
        report = validate(bundle)
        assert failures(report) == set(), target
        assert report.not_run == {}
        assert report.precision == str(bundle.manifest.precision)


def test_what_rounding_costs_stands_in_the_bundle(both: dict[str, Bundle]) -> None:
    for bundle in both.values():
        cost, precision = bundle.manifest.rounding, bundle.manifest.precision
        assert validate(bundle).rounding == cost
        if precision.format == "f32":
            assert cost is None
            continue
        assert cost is not None
        assert cost.outputs.keys() == {"logits", "hidden"}
        assert cost.routing.keys() == {"first", "second", "third"}
        # Half a step of the coarsest number that is rounded, carried through three layers: int4
        # has 8 steps to its largest, the others 127 and more.
        coarse = 1 / 8 if precision.format == "int4" else 1 / 127
        for output in cost.outputs.values():
            assert 0 < output.relative_error < 3 * coarse
            assert 1 - coarse < output.cosine < 1
        assert min(cost.routing.values()) > 0.9


def test_both_targets_give_the_same_numbers(both: dict[str, Bundle]) -> None:
    """On golden inputs, where the golden file says how far two right answers may be apart."""
    golden = both["ort"].golden()
    for case in golden.cases:
        with Session(both["ort"]) as ort, Session(both["standard"]) as standard:
            made, other = ort.run(case.inputs), standard.run(case.inputs)
        for name, reference in case.outputs_reference.items():
            own = np.abs(case.outputs[name] - reference).max()
            edge = case.outputs_edge_error[name]
            apart = 2 * max(EAGER_FACTOR * own, EDGE_FACTOR * edge)
            assert np.abs(made[name] - other[name]).max() <= apart, (case.name, name)


def test_the_graph_says_how_weights_are_stored(both: dict[str, Bundle]) -> None:
    for target, bundle in both.items():
        precision = bundle.manifest.precision
        graph = onnx.load(bundle.graph_path(), load_external_data=False)
        for node in [n for n in graph.graph.node if n.op_type in ("Experts", "GroupedMatMul")]:
            said = {a.name: a.default for a in STORAGE}
            said |= {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            said = {n: v.decode() if isinstance(v, bytes) else v for n, v in said.items()}
            assert said["weight_format"] == precision.format
            assert said["block_size"] == precision.block_size
            assert said["row_format"] == precision.row_format
            assert said["weight_layout"] == ("panels" if target == "ort" else "rows")
        names = {tensor.name for tensor in graph.graph.initializer}
        parts = {".scales"} if precision.format.startswith("int") else set()
        parts |= {".zeros"} if precision.zeros else set()
        stored = {m + part for m in MATRICES for part in parts} if target == "standard" else set()
        assert {name for name in names if name.endswith((".scales", ".zeros"))} == stored
        assert names >= MATRICES
        assert bool(graph.functions) == (target == "standard")
        assert (bundle.manifest.kernels is None) == (target == "standard")


def test_panels_hold_what_the_quantiser_makes_of_the_model_s_own_numbers(
    both: dict[str, Bundle], model: torch.nn.Module
) -> None:
    own = model.second.down.detach().numpy()
    expected = quantize(own, both["ort"].manifest.precision)
    values, scales, zeros, _ = unpack(blob(both["ort"].path, "second.down"))
    np.testing.assert_array_equal(values, expected.values)
    for made, part in ((scales, expected.scales), (zeros, expected.zeros)):
        assert (made is None) == (part is None)
        if part is not None:
            np.testing.assert_array_equal(made, part)


def blob(root: Path, name: str, mode: str = "r") -> np.memmap:
    """A weight of a bundle for ``ort``, mapped from its data file."""
    graph = onnx.load(root / "onnx/model.onnx", load_external_data=False).graph
    tensor = next(t for t in graph.initializer if t.name == name)
    where = {entry.key: int(e) for entry in tensor.external_data if (e := entry.value).isdigit()}
    return np.memmap(root / DATA, np.uint8, mode, offset=where["offset"], shape=where["length"])


def test_weights_are_quantised_once_for_golden_tensors_and_all_targets(
    marked: MarkedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised: list[tuple[int, ...]] = []

    def counted(weight: np.ndarray, precision: object) -> object:
        if weight.ndim == 3:
            quantised.append(weight.shape)
        return quantize_to_bytes(weight, precision)  # type: ignore[arg-type]

    monkeypatch.setattr(ondisk, "quantize_to_bytes", counted)
    portable = capture(marked, parse_precision("int4:32+zeros"))
    assert len(quantised) == len(MATRICES)
    for target in ("standard", "ort"):
        (tmp_path / target).mkdir()
        write_bundle(lower(portable, target), tmp_path / target)
    assert len(quantised) == len(MATRICES)


def test_every_source_tensor_is_still_accounted_for(marked: MarkedModel) -> None:
    plain, stored = (capture(marked, parse_precision(p)) for p in ("f32", "int8"))
    assert plain.unused == stored.unused
    weights = [portable.components["model"].weights for portable in (plain, stored)]
    held = [{name for weight in w.values() for name in weight.sources} for w in weights]
    assert held[0] == held[1]
    assert weights[1]["first.up.scales"].sources == weights[0]["first.up"].sources


def test_a_precision_is_validated_live_too(marked: MarkedModel, made: Made) -> None:
    bundle = made("ort", "int8")
    live = capture_live(marked, {"model": Rounding(experts=bundle.manifest.precision)})
    assert failures(validate(bundle, live, against="live")) == set()
    wrong = capture_live(marked, {"model": Rounding(experts=parse_precision("int4"))})
    assert failures(validate(bundle, wrong, against="live"))


@pytest.mark.parametrize("dense", ["bf16", "f16", "int8", "int4+zeros"])
def test_dense_products_take_a_precision_of_their_own(
    marked: MarkedModel, tmp_path: Path, dense: str
) -> None:
    portable = capture(marked, parse_precision("int8"), parse_precision(dense))
    for target in ("ort", "standard"):
        (tmp_path / target).mkdir()
        bundle = write_bundle(lower(portable, target), tmp_path / target)
        assert failures(validate(bundle)) == set(), target
        assert bundle.manifest.dense_precision == parse_precision(dense)
    stored = bundle.manifest.components["model"].dense
    # The head's matrix is the embedding's too, and a table of rows keeps its numbers.
    assert set(stored) == {"patches.weight", "second.shared.weight", "third.out.weight"}
    roundings = {
        "model": Rounding(
            experts=parse_precision("int8"), dense=parse_precision(dense), dense_names=stored
        )
    }
    assert failures(validate(bundle, capture_live(marked, roundings), against="live")) == set()
    own = capture_live(marked, {"model": Rounding(experts=parse_precision("int8"))})
    assert failures(validate(bundle, own, against="live"))


def test_a_weight_that_a_format_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    model = tiny.build()
    with torch.no_grad():
        model.second.down[1, 2, 3] = 1e6
    with pytest.raises(UnsupportedError, match=r"f16.*1e\+06") as refusal:
        moe_export.export(
            model, output=tmp_path / "out", example_inputs=tiny.example_inputs(), precision="f16"
        )
    assert refusal.value.where == "down of a Shared, made of down"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def spoilt(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made("ort", "int8").path, tmp_path / "copy"))


@pytest.mark.parametrize("expert", range(6))
def test_a_changed_weight_in_any_expert_s_panels_fails(spoilt: Path, expert: int) -> None:
    panels = blob(spoilt, "first.down", "r+")
    one = (panels.size - 64) // 6
    panels[64 + expert * one + 5] ^= 0x40  # 64 of 127 steps
    panels.flush()
    report = validate(sign_anew(spoilt))
    assert "first/experts" in failures(report)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 0),  # not MOEPANEL
        (8, 2),  # version
        (12, 9),  # format
        (16, 0),  # experts
        (16, 7),
        (19, 255),
        (20, 200),  # rows
        (27, 255),  # columns
        (28, 33),  # block size
        (32, 1),  # flags
        (32, 128),
        (36, 1),
        (47, 255),  # bytes of one expert
    ],
)
def test_panels_that_say_another_size_than_they_have_are_refused(
    spoilt: Path, place: int, value: int
) -> None:
    panels = blob(spoilt, "second.up", "r+")
    panels[place] = value
    panels.flush()
    bundle = sign_anew(spoilt)
    with pytest.raises(UnsafeInputError, match="ONNX Runtime") as refusal:
        Session(bundle)
    assert refusal.value.exit_code == 7


@pytest.mark.parametrize("field", ["abi", "panels"])
def test_a_bundle_for_other_kernels_says_so(made: Made, field: str) -> None:
    bundle = made("ort")
    needs = replace(bundle.manifest.kernels, **{field: 7})
    other = replace(bundle, manifest=replace(bundle.manifest, kernels=needs))
    with pytest.raises(MissingEnvironmentError, match="kernels of ABI") as refusal:
        Session(other)
    assert refusal.value.exit_code == 5


def test_without_the_library_only_standard_exports_and_runs(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort, standard = made("ort"), made("standard")
    monkeypatch.setenv("MOE_EXPORT_ORT_LIBRARY", str(tmp_path / "gone.so"))
    with pytest.raises(MissingEnvironmentError) as refusal:
        Session(ort)
    assert refusal.value.exit_code == 5
    with pytest.raises(MissingEnvironmentError) as refusal:
        moe_export.export(tmp_path / "never_looked_for.pt", output=tmp_path / "out")
    assert "--target standard" in str(refusal.value.hint)
    with Session(standard) as session:
        assert session.run(inputs_of(1, 2))["logits"].shape == (1, 6, tiny.VOCABULARY)


def test_int4_lies_two_to_a_byte(tmp_path: Path, marked: MarkedModel) -> None:
    bundle = write_bundle(lower(capture(marked, parse_precision("int4")), "standard"), tmp_path)
    graph = onnx.load(bundle.graph_path())  # onnx reads them with its own code
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    own = tiny.build().second.down.detach().numpy()
    expected = quantize(own, bundle.manifest.precision)
    assert stored["second.down"].dtype == ml_dtypes.int4
    np.testing.assert_array_equal(stored["second.down"], expected.values)
    np.testing.assert_array_equal(stored["second.down.scales"], expected.scales)
