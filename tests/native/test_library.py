"""What a machine without the native kernels is told, or with the wrong ones."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import onnxruntime as ort
import pytest

from moe_export.errors import MissingEnvironmentError
from moe_export.runtime import kernels

from . import nodes

VARIABLE = "MOE_EXPORT_ORT_LIBRARY"


def refusal(call) -> str:
    with pytest.raises(MissingEnvironmentError) as caught:
        call()
    assert caught.value.exit_code == 5
    assert "--target standard" in str(caught.value) or "MOE_EXPORT_CPU" in str(caught.value)
    return str(caught.value)


def test_an_installation_without_the_library_is_told_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_PACKAGED", tmp_path / "libmoe_export_ort.so")
    for call in (
        kernels.library_path,
        kernels.level,
        kernels.levels,
        lambda: kernels.register(ort.SessionOptions()),
    ):
        said = refusal(call)
        assert "no native kernels" in said
        assert "make native" in said


def test_a_library_that_is_named_and_missing_is_not_replaced_by_the_packages_own(
    monkeypatch, tmp_path
):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing.so"))
    assert f"{VARIABLE}={tmp_path}/nothing.so" in refusal(kernels.library_path)


def test_a_file_that_is_no_library_is_named(monkeypatch, tmp_path):
    file = tmp_path / "notes.so"
    file.write_text("not a library\n")
    monkeypatch.setenv(VARIABLE, str(file))
    said = refusal(kernels.library_path)
    assert "cannot be loaded" in said
    assert f"at: {file}" in said


def test_a_library_of_something_else_is_refused(monkeypatch):
    something_else = np._core._multiarray_umath.__file__
    monkeypatch.setenv(VARIABLE, something_else)
    assert "moe_export_ort_abi" in refusal(kernels.library_path)


def test_a_library_of_another_abi_is_refused_before_it_is_used(library, monkeypatch):
    monkeypatch.setattr(kernels, "ABI", kernels.ABI + 1)
    said = refusal(lambda: kernels.register(ort.SessionOptions()))
    assert f"have ABI {kernels.ABI - 1}, this moe-export needs {kernels.ABI}" in said


def test_the_best_level_runs_unless_another_is_named(library, monkeypatch):
    monkeypatch.delenv("MOE_EXPORT_CPU", raising=False)
    available = kernels.levels()
    assert available[0] == "portable"
    assert kernels.level() == available[-1]
    for name in available:
        monkeypatch.setenv("MOE_EXPORT_CPU", name)
        assert kernels.level() == name


def test_a_level_that_is_not_to_be_had_is_refused_and_never_replaced(library, monkeypatch):
    logits = {"router_logits": np.zeros((1, 4), np.float32)}
    model = nodes.model("Router", {"top_k": 1}, logits, fed=logits)
    monkeypatch.setenv("MOE_EXPORT_CPU", "avx9000")
    said = refusal(lambda: nodes.session(model))
    assert "'avx9000'" in said
    assert "portable" in said


def output_of(*command: str) -> str:
    """Skips where the machine has no such program."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_only_what_is_meant_to_be_called_is_exported(library):
    symbols = output_of("nm", "-D", "--defined-only", str(library))
    names = {line.split()[-1] for line in symbols.splitlines()}
    assert "RegisterCustomOps" in names
    assert all(name.startswith("moe_export_") for name in names - {"RegisterCustomOps"})


def test_the_c_plus_plus_library_comes_along(library):
    """A wheel that asked for the builder's libstdc++ would not load on an older system.

    Nor would one with functions that only this C++ library's randomness asks the C library for.
    """
    needed = output_of("objdump", "-p", str(library))
    assert "libstdc++" not in needed
    assert "arc4random" not in output_of("objdump", "-T", str(library))
