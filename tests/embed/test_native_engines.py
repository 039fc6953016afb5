"""Engines in C++: memory, copies, profiles, turns, and the refusals that Python has.

The driver is the mock one of ``tools/ptx``.  In TensorRT's place are, for C++ and behind
TensorRT's own headers, ``plugins/tests/runtime/nvinfer.cc``, and for Python
``tests/engines/stand_in``.  The real ones were never here.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

import moe_export
from attacks.hostile import edit_manifest, replace_file
from embed.building import BUILD, ROOT, built
from embed.driver import Driver
from line import tiny
from moe_export.errors import (
    MissingEnvironmentError,
    MoeExportError,
    UnsafeInputError,
    UsageError,
)
from moe_export.runtime import Bundle, Session, kernels
from tools.ptx.build import mock_driver

PLAN = "engines/trt/sm80/model.plan"
PROFILE = {
    "image": [[1, 4, 4], [2, 4, 4], [4, 4, 4]],
    "tokens": [[1, 1], [1, 16], [4, 64]],
}
IN_PYTHON = """
import json, sys
import numpy as np
from moe_export.errors import MoeExportError
from moe_export.runtime import Bundle
from moe_export.runtime.engine import EngineSession
try:
    session = EngineSession(Bundle.open(sys.argv[1]))
    session.run({name: np.zeros(shape, dtype) for name, shape, dtype in json.loads(sys.argv[2])})
except MoeExportError as error:
    print(json.dumps([error.exit_code, error.message, str(error.where), str(error.hint)]))
"""


@cache
def headers() -> str:
    found = subprocess.run(
        [ROOT / "tools" / "gpu" / "trt_headers.sh"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(f"TensorRT's headers are not here: {found.stderr.strip()}")
    return found.stdout.strip()


def program(target: str) -> Path:
    return built(target, "-D", f"MOE_EXPORT_TENSORRT_INCLUDE={headers()}")


@cache
def stand_in() -> Path:
    """The folder of the library that stands for TensorRT."""
    program("moe_stand_in_nvinfer")
    return BUILD / "plugins" / "tests" / "runtime"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return moe_export.export(
        tiny.build(),
        output=tmp_path_factory.mktemp("embed-engines") / "tiny.moe",
        example_inputs=tiny.example_inputs(),
        target="standard",  # Python's stand-in has no kernels
    )


@pytest.fixture
def root(plain: Bundle, tmp_path: Path) -> Path:
    """A bundle for ``trt`` with an engine for SM 80."""
    made = copytree(plain.path, tmp_path / "engines.moe")
    engine_in(made)
    return made


def engine_in(root: Path, plan: bytes = b"vtrt", target: str = "trt", **changes: Any) -> None:
    (root / PLAN).parent.mkdir(parents=True, exist_ok=True)
    replace_file(root, PLAN, plan)
    engine = {
        "component": "model",
        "plan": PLAN,
        "sm": 80,
        "tensorrt": "10.14.1",
        "plugins_sha256": None,
        "embeds_plugins": False,
        "profiles": [PROFILE],
        **changes,
    }
    edit_manifest(root, lambda manifest: manifest.update(engines=[engine], target=target))


def on_the_device(plain: Bundle, **more: str) -> dict[str, str]:
    """Variables of a program that finds the mock driver, and the stand-in for TensorRT."""
    return {
        "LD_LIBRARY_PATH": os.pathsep.join([str(stand_in()), str(mock_driver().parent)]),
        "STAND_IN_BUNDLE": str(plain.path),
        **more,
    }


def the_driver(plain: Bundle, **more: str) -> Driver:
    return Driver(program("moe_embed_driver"), **on_the_device(plain, **more))


def inputs_of(batch: int, sequence: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch * sequence)
    return {
        "image": random.standard_normal((batch, 4, 4)).astype(np.float32),
        "tokens": random.integers(0, 13, (batch, sequence)),
    }


def test_an_engine_gives_what_its_graph_gives_for_every_size_of_its_profile(
    plain: Bundle, root: Path, tmp_path: Path
):
    session = Session(plain, threads=1)
    with the_driver(plain) as driver:
        said = driver.opened(root).ask("session")
        assert [port["name"] for port in said["inputs"]] == list(session.input_names)
        assert [port["name"] for port in said["outputs"]] == list(session.output_names)
        for batch, sequence in ((1, 1), (2, 5), (4, 64), (1, 1)):
            inputs = inputs_of(batch, sequence)
            expected, made = session.run(inputs), driver.run(inputs, tmp_path)
            assert made.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(made[name], array)
        assert list(driver.run(inputs, tmp_path, outputs=["hidden"])) == ["hidden"]


def test_a_wrong_engine_gives_other_numbers(plain: Bundle, root: Path, tmp_path: Path):
    inputs = inputs_of(2, 3)
    expected = Session(plain, threads=1).run(inputs)
    with the_driver(plain, STAND_IN_SPOILS="1") as driver:
        driver.opened(root).ask("session")
        made = driver.run(inputs, tmp_path)
    assert not any(np.array_equal(made[name], expected[name]) for name in expected)


def test_threads_take_turns(plain: Bundle, root: Path, tmp_path: Path):
    inputs = inputs_of(2, 7)
    expected = Session(plain, threads=1).run(inputs)
    with the_driver(plain) as driver:
        driver.opened(root).ask("session")
        made = driver.run(inputs, tmp_path, threads=4, repeat=20)
    for name, array in expected.items():
        np.testing.assert_array_equal(made[name], array)


def test_the_other_graphs_of_such_a_bundle_run_on_onnx_runtime(plain: Bundle, root: Path, tmp_path):
    inputs = inputs_of(1, 4)
    with Driver(program("moe_embed_driver")) as driver:
        driver.opened(root).ask("session", graph="probe")
        made = driver.run(inputs, tmp_path)
    for name, array in Session(plain, threads=1, graph="probe").run(inputs).items():
        np.testing.assert_array_equal(made[name], array)


def refused(plain: Bundle, root: Path, folder: Path, inputs: dict, **more: str) -> MoeExportError:
    with the_driver(plain, **more) as driver:
        try:
            driver.opened(root).ask("session")
            driver.run(inputs, folder)
        except MoeExportError as error:
            return error
    pytest.fail("nothing was refused")


def refused_in_python(root: Path, folder: Path, inputs: Mapping[str, np.ndarray], **more: str):
    """What Python's session says, where its stand-in has the name of the other TensorRT."""
    place = folder / "python"
    for module, words in {
        "tensorrt": "from tensorrt_rtx import ILogger, Runtime, __version__, get_plugin_registry\n",
        "tensorrt_libs": "",
    }.items():
        (place / module).mkdir(parents=True, exist_ok=True)
        (place / module / "__init__.py").write_text(words)
    folders = [place, ROOT / "tests" / "engines" / "stand_in", ROOT]
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "LD_LIBRARY_PATH": str(mock_driver().parent),
        "STAND_IN_GRAPH": str(Bundle.open(root).graph_path()),
        **more,
    }
    given = [(name, array.shape, array.dtype.name) for name, array in inputs.items()]
    done = subprocess.run(
        [sys.executable, "-c", IN_PYTHON, str(root), json.dumps(given)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SHA = hashlib.sha256(b"").hexdigest()
# What is done to the bundle, the inputs, and the variables of the process.
SAME_WORDS: dict[str, tuple[dict[str, Any], tuple[int, int], dict[str, str]]] = {
    "another GPU": ({}, (1, 1), {"MOE_EXPORT_MOCK_CAPABILITY": "90"}),
    "no engine": ({"component": "decoder"}, (1, 1), {}),
    "no driver": ({}, (1, 1), {"LD_LIBRARY_PATH": "NO DRIVER"}),
    "a library inside": ({"embeds_plugins": True}, (1, 1), {}),
    "untrusted": ({"embeds_plugins": True}, (1, 1), {"MOE_EXPORT_TRUST_ENGINES": "yes"}),
    "other plugins": ({"plugins_sha256": SHA}, (1, 1), {"MOE_EXPORT_TRT_LIBRARY": "KERNELS"}),
    "no plugins": ({"plugins_sha256": SHA}, (1, 1), {"MOE_EXPORT_TRT_LIBRARY": "/nowhere.so"}),
    "a long prompt": ({}, (1, 65), {}),
    "a large batch": ({}, (5, 1), {}),
}


@pytest.mark.parametrize("which", SAME_WORDS)
def test_what_python_refuses_is_refused_in_its_words(plain, root, tmp_path, which):
    changes, size, variables = SAME_WORDS[which]
    if which == "no driver" and find_library("cuda"):
        pytest.skip("there is a driver here")
    engine_in(root, **changes)
    known = {"NO DRIVER": str(stand_in()), "KERNELS": str(kernels.library_path())}
    variables = {name: known.get(value, value) for name, value in variables.items()}
    error = refused(plain, root, tmp_path, inputs_of(*size), **variables)
    said = [error.exit_code, error.message, str(error.where), str(error.hint)]
    assert said == refused_in_python(root, tmp_path, inputs_of(*size), **variables)


def test_plugins_and_libraries_inside_are_loaded_where_that_is_allowed(plain, root, tmp_path):
    library = kernels.library_path()
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    engine_in(root, plugins_sha256=digest)
    with the_driver(plain, MOE_EXPORT_TRT_LIBRARY=str(library)) as driver:
        driver.opened(root).ask("session")
        assert driver.run(inputs_of(1, 1), tmp_path)
    engine_in(root, b"vtrt+library", plugins_sha256=digest, embeds_plugins=True)
    with the_driver(plain, MOE_EXPORT_TRUST_ENGINES="1") as driver:
        driver.opened(root).ask("session")
        assert driver.run(inputs_of(1, 1), tmp_path)


# What is done to the bundle, the variables of the process, the kind, and words of the refusal.
OWN_WORDS: dict[str, tuple[dict[str, Any], dict[str, str], type[MoeExportError], str]] = {
    "a spoiled plan": (
        {"plan": b"spoiled"},
        {},
        MissingEnvironmentError,
        r"TensorRT [\d.]+ does not load the engine, which 10.14.1 built: this is no plan",
    ),
    "no start": (
        {},
        {"STAND_IN_FAILS": "1"},
        MissingEnvironmentError,
        r"TensorRT [\d.]+ does not start: CUDA initialization failure",
    ),
    "another type": (
        {"plan": b"vtrt+half"},
        {},
        UnsafeInputError,
        "the engine has '.*' as float16, the manifest as float32",
    ),
    "no library": (
        {},
        {"LD_LIBRARY_PATH": "MOCK ALONE"},
        MissingEnvironmentError,
        r"TensorRT is not installed: libnvinfer.so.\d+",
    ),
    "no such library": (
        {},
        {"MOE_EXPORT_TENSORRT": "/nowhere"},
        MissingEnvironmentError,
        "TensorRT cannot be loaded: /nowhere",
    ),
    "no TensorRT": (
        {},
        {"MOE_EXPORT_TENSORRT": "KERNELS"},
        MissingEnvironmentError,
        "TensorRT has no createInferRuntime_INTERNAL",
    ),
    "another release": (
        {},
        {"STAND_IN_RELEASE": "90100"},
        MissingEnvironmentError,
        r"this is TensorRT 9.1.0, this libmoe_export was built for \d+",
    ),
    "the other TensorRT": (
        {"target": "trt-rtx"},
        {},
        MissingEnvironmentError,
        r"was built for TensorRT \d+, not for TensorRT-RTX",
    ),
    "profiles of other axes": (
        {"profiles": [{"tokens": [[1], [1], [9]]}]},
        {},
        UsageError,
        "no profile of the engine has room for image",
    ),
}


@pytest.mark.parametrize("which", OWN_WORDS)
def test_what_is_not_as_it_was_built_for_is_named(plain, root, tmp_path, which):
    changes, variables, kind, words = OWN_WORDS[which]
    engine_in(root, **changes)
    known = {"MOCK ALONE": str(mock_driver().parent), "KERNELS": str(kernels.library_path())}
    variables = {name: known.get(value, value) for name, value in variables.items()}
    error = refused(plain, root, tmp_path, inputs_of(1, 1), **variables)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error
    assert error.where
    assert error.hint


def test_a_folder_may_be_named(plain, root, tmp_path):
    variables = {"LD_LIBRARY_PATH": str(mock_driver().parent)}
    with the_driver(plain, MOE_EXPORT_TENSORRT=str(stand_in()), **variables) as driver:
        driver.opened(root).ask("session")
        assert driver.run(inputs_of(1, 1), tmp_path)


def test_a_library_that_was_built_without_tensorrt_says_so(root):
    with Driver(program("moe_embed_driver_no_tensorrt")) as driver:
        driver.opened(root)
        with pytest.raises(MissingEnvironmentError, match="built without TensorRT") as caught:
            driver.ask("session")
    assert "--target ort" in str(caught.value.hint)


def test_wrong_inputs_are_refused_as_python_refuses_them(plain, root, tmp_path):
    session = Session(plain)
    right = inputs_of(2, 3)
    for inputs in (
        {"image": right["image"]},
        {**right, "more": right["image"]},
        {**right, "tokens": right["tokens"].astype(np.int32)},
        {**right, "tokens": right["tokens"][:1]},
    ):
        with pytest.raises(UsageError) as expected:
            session.run(inputs)
        error = refused(plain, root, tmp_path, inputs)
        assert str(error) == str(expected.value)


@pytest.mark.parametrize("plan", ["../secret.plan", "engines/none.plan"])
def test_an_engine_is_a_file_of_the_bundle(root, plan):
    edit_manifest(root, lambda manifest: manifest["engines"][0].update(plan=plan))
    with pytest.raises(UnsafeInputError, match="is not in files") as expected:
        Bundle.open(root)
    with Driver(program("moe_embed_driver")) as driver, pytest.raises(UnsafeInputError) as caught:
        driver.ask("open", path=str(root))
    assert caught.value.message == expected.value.message
