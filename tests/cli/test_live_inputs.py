"""``validate --source --inputs``: a user's arrays through the eager model and the bundle."""

from __future__ import annotations

import json

import numpy as np
import pytest

RIGHT = {
    "image": np.random.default_rng(0).random((2, 2, 2), np.float32),
    "tokens": np.array([[2, 3, 4], [5, 9, 2]]),
}


@pytest.fixture
def live(invoke, bundle, checkpoint, python_path):
    def run(*words):
        return invoke("validate", bundle, "--source", checkpoint, *python_path, *words)

    return run


# What each layer's experts are run on alone, whatever the inputs.
ALONE = ("every expert", "padded", "empty", "overloaded")


def saved(path, **arrays):
    np.savez(path, **RIGHT | arrays)
    return path


def test_a_file_is_a_case_of_its_name(live, tmp_path):
    result = live("--inputs", saved(tmp_path / "mine.npz"), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert {tensor["case"] for tensor in report["tensors"]} == {"mine", *ALONE}
    assert report["against"] == "live tiny.pt, given inputs"
    assert {routing["tokens"] for routing in report["routing"]} == {6}


def test_a_folder_holds_a_case_in_each_file(live, tmp_path):
    saved(tmp_path / "b.npz")
    saved(tmp_path / "a.npz", tokens=np.array([[2, 3], [9, 9]]))
    (tmp_path / "notes.txt").write_text("not a case")
    report = json.loads(live("--inputs", tmp_path, "--json").stdout)
    cases = dict.fromkeys(tensor["case"] for tensor in report["tensors"])
    assert list(cases) == ["a", "b", *ALONE]


def test_what_differs_on_these_inputs_fails(invoke, spoiled, checkpoint, python_path, tmp_path):
    words = ("--source", checkpoint, *python_path, "--inputs", saved(tmp_path / "mine.npz"))
    assert invoke("validate", spoiled, *words).exit_code == 4


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"picture": RIGHT["image"]}, "unknown input 'picture'"),
        ({"tokens": RIGHT["tokens"].astype(np.int32)}, "input 'tokens' has the wrong dtype"),
        ({"image": RIGHT["image"][0]}, "input 'image' has the wrong number of axes"),
        ({"image": RIGHT["image"][:, :1]}, "input 'image' has size 1 on axis 1"),
        ({"image": RIGHT["image"][:1]}, "batch = 1"),
    ],
)
def test_arrays_that_the_bundle_does_not_take_are_refused_by_case(live, tmp_path, arrays, words):
    result = live("--inputs", saved(tmp_path / "mine.npz", **arrays))
    assert result.exit_code == 2
    assert words in result.stderr
    assert "the inputs 'mine'" in result.stderr


def test_a_missing_array_is_named(live, tmp_path):
    np.savez(tmp_path / "mine.npz", tokens=RIGHT["tokens"])
    result = live("--inputs", tmp_path / "mine.npz")
    assert result.exit_code == 2
    assert "missing input image float32" in result.stderr


def test_files_that_are_not_there_or_not_arrays_are_refused(live, tmp_path):
    assert live("--inputs", tmp_path / "nowhere.npz").exit_code == 2
    result = live("--inputs", tmp_path)
    assert (result.exit_code, "holds no .npz file" in result.stderr) == (2, True)
    saved(tmp_path / "mine.npz", words=np.array([{}], object))
    assert live("--inputs", tmp_path / "mine.npz").exit_code == 7


def test_a_bundle_that_is_shown_no_images_says_what_to_do(live, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    result = live("--images", tmp_path)
    assert result.exit_code == 2
    assert "give it arrays with --inputs" in result.stderr


def test_inputs_belong_to_a_live_model_and_are_of_one_kind(invoke, bundle, live, tmp_path):
    for option in ("--inputs", "--images"):
        result = invoke("validate", bundle, option, tmp_path)
        assert (result.exit_code, "need --source" in result.stderr) == (2, True)
    result = live("--inputs", tmp_path, "--images", tmp_path)
    assert (result.exit_code, "one of --inputs and --images" in result.stderr) == (2, True)
