from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from moe_export.runtime import Generator, Session


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "grey.png"
    Image.new("L", (2, 2), 99).save(path)
    return path


@pytest.fixture
def inputs(tmp_path):
    arrays = {"image": np.full((2, 2, 2), 0.5, np.float32), "tokens": np.array([[2, 3], [4, 5]])}
    np.savez(tmp_path / "in.npz", **arrays)
    return tmp_path / "in.npz", arrays


def test_the_answer_is_the_generator_s_on_a_line_of_its_own(invoke, bundle, image):
    result = invoke("run", bundle, "--image", image, "--prompt", "which digit is it")
    assert (result.exit_code, result.stderr) == (0, "")
    answer = Generator(bundle).generate(image, "which digit is it").text
    assert answer
    assert result.stdout == answer + "\n"


def test_an_answer_is_no_longer_than_asked_for(invoke, bundle, image):
    words = ("run", bundle, "--image", image, "--prompt", "which digit", "--json")
    short = json.loads(invoke(*words, "--max-new-tokens", 1).stdout)["answer"]
    long = json.loads(invoke(*words).stdout)["answer"]
    assert long.startswith(short)
    assert len(short.split()) == 1 < len(long.split())


def test_a_missing_image_is_asked_for(invoke, bundle):
    result = invoke("run", bundle, "--prompt", "which digit")
    assert result.exit_code == 2
    assert "needs an image" in result.stderr


def test_arrays_in_give_the_session_s_arrays_out(invoke, bundle, inputs, tmp_path):
    path, arrays = inputs
    result = invoke("run", bundle, "--inputs", path, "--output", tmp_path / "out.npz")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "output float32 [2, 2, 10]\n"
    expected = Session(bundle).run(arrays)
    with np.load(tmp_path / "out.npz") as written:
        assert written.files == list(expected)
        np.testing.assert_array_equal(written["output"], expected["output"])


def test_json_gives_shape_and_range_of_each_output(invoke, bundle, inputs):
    path, arrays = inputs
    facts = json.loads(invoke("run", bundle, "--inputs", path, "--json").stdout)
    output = Session(bundle).run(arrays)["output"]
    assert facts["file"] is None
    assert facts["outputs"]["output"] == {
        "dtype": "float32",
        "shape": [2, 2, 10],
        "min": output.min().item(),
        "max": output.max().item(),
    }


def test_objects_in_a_file_of_inputs_are_never_unpickled(invoke, bundle, tmp_path):
    np.savez(tmp_path / "in.npz", image=np.array([print], dtype=object))
    result = invoke("run", bundle, "--inputs", tmp_path / "in.npz")
    assert result.exit_code == 7
    assert "arrays of Python objects are not read" in result.stderr


def test_a_damaged_file_of_inputs_is_refused(invoke, bundle, inputs):
    path, _ = inputs
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset
    content = bytearray(path.read_bytes())
    content[start + 200] ^= 0xFF
    path.write_bytes(content)
    result = invoke("run", bundle, "--inputs", path)
    assert result.exit_code == 7
    assert str(path) in result.stderr


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_npz_is_an_error_of_use(invoke, bundle, tmp_path, content):
    path = tmp_path / "in.npz"
    if content is not None:
        path.write_bytes(content)
    result = invoke("run", bundle, "--inputs", path)
    assert result.exit_code == 2
    assert f"at: {path}" in result.stderr


def test_an_array_of_the_wrong_type_is_named(invoke, bundle, tmp_path):
    np.savez(tmp_path / "in.npz", image=np.ones((1, 2, 2)), tokens=np.ones((1, 1), np.int64))
    result = invoke("run", bundle, "--inputs", tmp_path / "in.npz")
    assert result.exit_code == 2
    assert "input 'image' has the wrong dtype" in result.stderr


def test_options_of_the_answer_are_the_generator_s(invoke, bundle, image):
    asked = ("--image", image, "--prompt", "which digit is it", "--json", "--max-new-tokens", 6)
    drawn = ("--temperature", 2.5, "--top-k", 9, "--top-p", 0.95, "--repetition-penalty", 1.1)
    made = [json.loads(invoke("run", bundle, *asked, *drawn, "--seed", n).stdout) for n in range(4)]
    with Generator(bundle) as generator:
        for seed, said in enumerate(made):
            answer = generator.generate(
                image,
                "which digit is it",
                max_new_tokens=6,
                temperature=2.5,
                top_k=9,
                top_p=0.95,
                repetition_penalty=1.1,
                seed=seed,
            )
            assert said["answer"] == answer.text
            assert said["ids"] == list(answer.ids)
            assert said["finish_reason"] == answer.finish_reason
    assert len({said["answer"] for said in made}) > 1


def test_an_answer_ends_in_front_of_a_stop_string(invoke, bundle, image):
    asked = ("run", bundle, "--image", image, "--prompt", "which digit")
    whole = invoke(*asked).stdout.strip()
    words = whole.split()
    result = invoke(*asked, "--stop", "never", "--stop", words[-1])
    assert result.stdout == whole[: whole.index(words[-1])] + "\n"
    said = json.loads(invoke(*asked, "--stop", words[-1], "--json").stdout)
    assert said["finish_reason"] == "stop_string"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--temperature", -1), "temperature must be 0 or more"),
        (("--top-p", 0), "top_p must be above 0"),
        (("--seed", -1), "seed must be 0 or more"),
        (("--stop", ""), "stop must be strings that are not empty"),
    ],
)
def test_options_that_make_no_sense_are_errors_of_use(invoke, bundle, image, words, message):
    result = invoke("run", bundle, "--image", image, "--prompt", "which digit", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_options_of_an_answer_go_with_a_prompt(invoke, bundle, inputs):
    for option in ("--max-new-tokens", "--temperature", "--top-k", "--seed"):
        result = invoke("run", bundle, "--inputs", inputs[0], option, 1)
        assert result.exit_code == 2
        assert f"{option} goes with --prompt" in result.stderr
