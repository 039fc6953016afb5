from __future__ import annotations

import json
import mmap
import weakref
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bundle.toy import W, block_record, export, golden, linear_model, tensors, weight
from moe_export.bundle import bundle
from moe_export.bundle.weights import ALIGNMENT
from moe_export.errors import MemoryBudgetError, UsageError
from moe_export.runtime import Bundle, Session

MORE = {
    "a.large": np.arange(3000, dtype=np.float32).reshape(3, 1000),
    "half": np.ones((5, 3), np.float16),
    "none": np.ones((0, 4), np.float32),
    "scalar": np.array(3.0, np.float32),
    "brain": np.arange(7).astype(ml_dtypes.bfloat16),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def placed(tmp_path: Path, model) -> Bundle:
    place = tmp_path / "place"
    place.mkdir()
    return bundle(model, place)


def test_what_was_bundled_comes_back(tmp_path):
    model = linear_model(MORE, assets={"config.json": b"{}", "chat/template.jinja": b"hi"})
    made = placed(tmp_path, model)
    manifest = made.manifest
    assert manifest == Bundle.open(made.path).manifest
    assert manifest.blocks == (block_record(),)
    assert manifest.unused == model.portable.unused
    assert manifest.source == model.portable.source
    assert manifest.verdict == "not validated"
    assert manifest.parameters == 12
    assert str(made.component().inputs[0]) == "x float32 [batch, 4]"
    assert made.component().probes == {"block": {"experts_y": "rows"}}
    assert made.asset("config.json") == b"{}"
    assert made.asset("chat/template.jinja") == b"hi"
    assert made.asset("onnx/model.onnx") is None
    with pytest.raises(UsageError, match="no component 'vision'"):
        made.component("vision")


def test_golden_tensors_come_back_bit_for_bit(tmp_path):
    expected, found = golden(), placed(tmp_path, linear_model()).golden()
    assert [case.name for case in found.cases] == [case.name for case in expected.cases]
    recorded, read = dict(tensors(expected)), dict(tensors(found))
    assert recorded.keys() == read.keys()
    for path, tensor in recorded.items():
        assert read[path].dtype == tensor.dtype, path
        np.testing.assert_array_equal(read[path], tensor, err_msg=path, strict=True)


def test_a_bundle_answers_as_its_weights_say(tmp_path):
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = x @ W + np.array([10, 20, 30], np.float32)  # small integers: exact in float32
    with Session(placed(tmp_path, linear_model(MORE))) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], expected)


def test_equal_models_give_equal_bytes(tmp_path):
    model = linear_model(MORE)
    export(model, tmp_path / "one")
    component = model.components["model"]
    backwards = replace(component, weights=dict(reversed(component.weights.items())))
    export(replace(model, components={"model": backwards}), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_weights_lie_where_the_graph_says_aligned_for_mapping(tmp_path):
    made = placed(tmp_path, linear_model(MORE))
    graph = onnx.load(made.graph_path(), load_external_data=False).graph
    external = {t.name: t for t in graph.initializer if t.data_location == t.EXTERNAL}
    assert external.keys() == MORE.keys() | {"w"}
    with (made.path / "onnx/model.onnx.data").open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for name, array in ({"w": W} | MORE).items():
        facts = {entry.key: entry.value for entry in external[name].external_data}
        offset, length = int(facts["offset"]), int(facts["length"])
        assert offset % ALIGNMENT == 0
        mapped = np.frombuffer(data, array.dtype, array.size, offset).reshape(array.shape)
        np.testing.assert_array_equal(mapped, array, err_msg=name)
        assert length == array.nbytes
    assert (
        onnx.numpy_helper.to_array(next(t for t in graph.initializer if t.name == "bias"))[2] == 30
    )


def test_one_weight_is_in_memory_at_a_time(tmp_path):
    alive: list[weakref.ref] = []
    most = 0

    def read() -> np.ndarray:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        array = np.ones((8, 8), np.float32)
        alive.append(weakref.ref(array))
        return array

    lazy = {f"weight{i}": np.ones((8, 8), np.float32) for i in range(8)}
    model = linear_model(lazy)
    component = model.components["model"]
    weights = {name: replace(component.weights[name], read=read) for name in lazy}
    component = replace(component, weights={**component.weights, **weights})
    placed(tmp_path, replace(model, components={"model": component}))
    assert len(alive) == 8
    assert most == 0, "a weight was still held when the next was read"


def test_the_stage_leaves_the_model_alone(tmp_path):
    model = linear_model()
    graph = model.components["model"].graph
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    placed(tmp_path, model)
    assert graph.graph.initializers["w"].const_value is None
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "wrong",
    [np.ones((3, 4), np.float32), np.ones((4, 3), np.float64)],
    ids=["shape", "dtype"],
)
def test_a_weight_that_is_not_what_was_announced_is_a_bug(tmp_path, wrong):
    model = linear_model()
    component = model.components["model"]
    lying = replace(component.weights["w"], read=lambda: wrong)
    broken = replace(component, weights={"w": lying})
    with pytest.raises(ValueError, match="weight 'w' was announced as float32"):
        placed(tmp_path, replace(model, components={"model": broken}))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "'w' has neither a value nor a weight"),
        ({"w": weight(W), "ghost": weight(W)}, "does not use.*ghost"),
        ({"w": weight(W.T.copy())}, "'w' is .*, its weight"),
        ({"w": weight(W.astype(np.float64))}, "'w' is .*, its weight"),
    ],
)
def test_weights_that_do_not_fit_the_graph_are_a_bug(tmp_path, weights, message):
    model = linear_model()
    component = replace(model.components["model"], weights=weights)
    with pytest.raises(ValueError, match=message):
        placed(tmp_path, replace(model, components={"model": component}))


@pytest.mark.parametrize(
    "name", ["moe_export.json", "onnx/x", "Golden/x", "../x", "/x", "reports/x"]
)
def test_an_asset_cannot_take_a_name_of_the_format(tmp_path, name):
    with pytest.raises(ValueError, match=r"path|asset"):
        placed(tmp_path, linear_model(assets={name: b""}))


def test_a_disk_too_small_for_the_weights_is_refused_before_they_are_read(tmp_path):
    huge = weight(np.broadcast_to(np.float32(0), (2**20, 2**20, 2**12)))  # 16 EiB
    model = linear_model()
    component = replace(model.components["model"], weights={"w": huge})
    with pytest.raises(MemoryBudgetError, match="bytes of disk") as refusal:
        placed(tmp_path, replace(model, components={"model": component}))
    assert refusal.value.exit_code == 6


def test_a_bundle_names_no_place_of_the_machine_that_made_it(tmp_path):
    made = placed(tmp_path, linear_model())
    for name, content in contents(made.path).items():
        assert str(tmp_path).encode() not in content, name
        assert str(Path.home()).encode() + b"/" not in content, name


def test_the_manifest_lists_every_other_file(tmp_path):
    export(linear_model(assets={"config.json": b"{}"}), tmp_path / "out")
    listed = json.loads((tmp_path / "out/moe_export.json").read_text())["files"]
    assert listed.keys() == contents(tmp_path / "out").keys() - {"moe_export.json"}
    assert {"reports/parity.json", "config.json"} <= listed.keys()
