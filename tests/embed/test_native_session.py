"""Graphs that the C++ runtime runs: the bits that Python's session gives, and its refusals."""

from __future__ import annotations

import os
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from attacks.hostile import edit_manifest
from embed.driver import Driver
from moe_export.errors import MissingEnvironmentError, MoeExportError, UsageError
from moe_export.runtime import Bundle, Session
from moe_export.runtime.greedy import no_features


def decoder_inputs(session: Session, past: int, length: int) -> dict[str, np.ndarray]:
    sizes = {"batch": 2, "sequence": length, "past": past, "past+sequence": past + length}
    random = np.random.default_rng(0)
    made = {}
    for info in session.inputs:
        shape = [size if isinstance(size, int) else sizes[size] for size in info.shape]
        if info.dtype == "float32":
            made[info.name] = random.standard_normal(shape).astype(np.float32)
        elif info.name == "attention_mask":
            made[info.name] = np.ones(shape, np.int64)
        else:
            made[info.name] = np.broadcast_to(np.arange(past, past + length), shape).copy()
    return made


def test_a_bundle_is_what_python_says_it_is(seeing):
    with Driver() as driver:
        said = driver.ask("open", path=str(seeing.path))
    manifest = seeing.manifest
    assert said["target"] == manifest.target
    assert said["digest"] == manifest.digest
    assert said["components"] == sorted(manifest.components)
    assert said["path"] == str(seeing.path)


@pytest.mark.parametrize("past", [0, 5])
def test_outputs_are_those_of_python_bit_for_bit(seeing, tmp_path, past):
    session = Session(seeing, component="decoder", threads=1)
    inputs = decoder_inputs(session, past, 3)
    expected = session.run(inputs)
    with Driver() as driver:
        said = driver.opened(seeing.path).ask("session", component="decoder")
        assert [port["name"] for port in said["inputs"]] == list(session.input_names)
        made = driver.run(inputs, tmp_path)
        some = driver.run(inputs, tmp_path, outputs=["present_key_1", "logits"])
    assert made.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(made[name], array), name
    assert some.keys() == {"logits", "present_key_1"}
    assert np.array_equal(some["logits"], expected["logits"])


def test_ports_have_the_sizes_and_names_of_the_graph(seeing):
    session = Session(seeing, component="embed", threads=1)
    with Driver() as driver:
        said = driver.opened(seeing.path).ask("session", component="embed")
    for kind, infos in (("inputs", session.inputs), ("outputs", session.outputs)):
        for port, info in zip(said[kind], infos, strict=True):
            assert (port["name"], port["dtype"]) == (info.name, info.dtype)
            sizes = [size if isinstance(size, int) else -1 for size in info.shape]
            names = [size if isinstance(size, str) else "" for size in info.shape]
            assert (port["sizes"], port["names"]) == (sizes, names)


def test_nothing_along_an_axis_is_no_trouble(seeing, tmp_path):
    session = Session(seeing, component="embed", threads=1)
    inputs = {"input_ids": np.array([[1, 2, 3]]), **no_features(session)}
    with Driver() as driver:
        driver.opened(seeing.path).ask("session", component="embed")
        made = driver.run(inputs, tmp_path)
    for name, array in session.run(inputs).items():
        assert np.array_equal(made[name], array)


def wrong_inputs(right: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    ids, key = right["position_ids"], right["past_key_0"]
    return {
        "unknown": {**right, "more": ids},
        "missing": {name: array for name, array in right.items() if name != "position_ids"},
        "dtype": {**right, "position_ids": ids.astype(np.int32)},
        "axes": {**right, "position_ids": ids[0]},
        "size": {**right, "past_key_0": key[..., :-1]},
        "symbol": {**right, "past_key_0": key[:-1]},
    }


@pytest.mark.parametrize("which", ["unknown", "missing", "dtype", "axes", "size", "symbol"])
def test_wrong_inputs_are_refused_as_python_refuses_them(seeing, tmp_path, which):
    session = Session(seeing, component="decoder", threads=1)
    inputs = wrong_inputs(decoder_inputs(session, 4, 2))[which]
    with pytest.raises(UsageError) as expected:
        session.run(inputs)
    with Driver() as driver:
        driver.opened(seeing.path).ask("session", component="decoder")
        with pytest.raises(UsageError) as refused:
            driver.run(inputs, tmp_path)
    assert refused.value.message == expected.value.message
    assert refused.value.hint == expected.value.hint


def test_an_unknown_output_component_or_graph_is_refused(seeing, tmp_path):
    with Driver() as driver:
        driver.opened(seeing.path)
        with pytest.raises(UsageError, match="no component 'model'"):
            driver.ask("session")
        with pytest.raises(UsageError, match="no graph 'mane'"):
            driver.ask("session", component="embed", graph="mane")
        driver.ask("session", component="embed")
        with pytest.raises(UsageError, match="unknown output 'y'"):
            driver.run({"input_ids": np.array([[1]])}, tmp_path, outputs=["y"])


def test_ids_beyond_the_vocabulary_are_the_callers_mistake(telling, tmp_path):
    with Driver() as driver:
        driver.opened(telling.path).ask("session", component="embed")
        with pytest.raises(UsageError, match="cannot run on these values"):
            driver.run({"input_ids": np.array([[10**6]])}, tmp_path)


def test_probes_are_outputs_of_the_probe_graph(telling, tmp_path):
    session = Session(telling, component="decoder", threads=1, graph="probe")
    inputs = decoder_inputs(session, 0, 4)
    with Driver() as driver:
        driver.opened(telling.path).ask("session", component="decoder", graph="probe")
        made = driver.run(inputs, tmp_path)
    for name, array in session.run(inputs).items():
        assert np.array_equal(made[name], array), name


MISSING = {
    "no runtime": ({"MOE_EXPORT_ONNXRUNTIME": "/nowhere/libonnxruntime.so"}, "cannot be loaded"),
    "an empty folder": ({"MOE_EXPORT_ONNXRUNTIME": "EMPTY"}, "no libonnxruntime.so"),
    "another library": ({"MOE_EXPORT_ONNXRUNTIME": "libm.so.6"}, "cannot be loaded"),
    "no kernels": ({"MOE_EXPORT_ORT_LIBRARY": "/nowhere/lib.so"}, "is not there"),
    "other kernels": ({"MOE_EXPORT_ORT_LIBRARY": "RUNTIME"}, "cannot be loaded"),
    "no such CPU": ({"MOE_EXPORT_CPU": "avx1024"}, "no native kernels for the level"),
}


@pytest.mark.parametrize("which", MISSING)
def test_what_is_missing_here_is_named(telling, tmp_path, which):
    variables, words = MISSING[which]
    known = {"EMPTY": str(tmp_path), "RUNTIME": _runtime()}
    variables = {name: known.get(value, value) for name, value in variables.items()}
    with Driver(**variables) as driver:
        driver.opened(telling.path)
        with pytest.raises(MissingEnvironmentError, match=words) as lost:
            driver.ask("session", component="embed")
    assert lost.value.hint


def _runtime() -> str:
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    return str(next(folder.glob("libonnxruntime.so*")))


def test_a_bundle_that_needs_other_kernels_says_so(telling, tmp_path):
    root = copytree(telling.path, tmp_path / "other.moe")
    edit_manifest(root, lambda manifest: manifest["kernels"].update(abi=2))
    with pytest.raises(MissingEnvironmentError) as expected:
        Session(Bundle.open(root), component="embed")
    with Driver() as driver:
        driver.opened(root)
        with pytest.raises(MissingEnvironmentError) as refused:
            driver.ask("session", component="embed")
    assert refused.value.message.replace("moe_export", "moe-export") == expected.value.message


def test_a_bundle_may_be_a_link_and_its_path_is_where_it_leads(telling, tmp_path):
    link = tmp_path / "link"
    os.symlink(telling.path, link)
    with Driver() as driver:
        assert driver.ask("open", path=str(link))["path"] == str(telling.path)


def test_no_bundle_is_the_callers_mistake(tmp_path):
    (tmp_path / "file").touch()
    with Driver() as driver:
        for path in (tmp_path / "nothing", tmp_path / "file", tmp_path):
            with pytest.raises(UsageError) as refused:
                driver.ask("open", path=str(path))
            with pytest.raises(MoeExportError) as expected:
                Bundle.open(path)
            assert str(refused.value) == str(expected.value)
