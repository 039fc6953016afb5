"""What the build says of the kernels: no spills, no more shared memory than a GPU has."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("MOE_EXPORT_GPU_KERNELS", ROOT / "build/gpu"))
DESCRIPTION = BUILD / "kernels.json"

needs_build = pytest.mark.skipif(
    not DESCRIPTION.is_file(),
    reason=f"no GPU kernels in {BUILD} (python tools/gpu/compile_kernels.py)",
)


def load_tiles() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiles", ROOT / "plugins/kernels/cuda/tiles.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiles"] = module
    spec.loader.exec_module(module)
    return module


tiles = load_tiles()


def rows() -> list[tuple[str, str, dict[str, Any]]]:
    if not DESCRIPTION.is_file():
        return []
    kernels = json.loads(DESCRIPTION.read_text())["kernels"]
    return [(name, sm, needs) for name, k in kernels.items() for sm, needs in k["sm"].items()]


@needs_build
def test_no_kernel_spills_a_register() -> None:
    spilled = [
        f"{name} on sm_{sm}: {n['spill_bytes']}" for name, sm, n in rows() if n["spill_bytes"]
    ]
    assert not spilled


@needs_build
def test_every_kernel_was_built_from_the_tiles_as_they_are() -> None:
    built = dict(json.loads(DESCRIPTION.read_text())["kernels"].items())
    assert set(built) == {kernel.name for kernel in tiles.kernels("80")}
    for name, sm, needs in rows():
        kernel = next(k for k in tiles.kernels(sm) if k.name == name)
        assert needs["stages"] == kernel.stages, (name, sm)
        assert needs["bk"] == kernel.constants.get("BK", 0), (name, sm)


@needs_build
def test_the_launcher_passes_what_the_kernels_take() -> None:
    table = (BUILD / "kernel_table.inc").read_text()
    kernels = json.loads(DESCRIPTION.read_text())["kernels"]
    for name, letters in re.findall(r'^KERNEL\((\w+), "(\w+)"\)$', table, re.MULTILINE):
        types = [a["type"] for a in kernels[name]["arguments"][:-2]]
        assert letters == "".join("p" if t.startswith("*") else t[0] for t in types)
    assert table.count("\nKERNEL(") == len(kernels)


@pytest.mark.parametrize("sm", tiles.SMS)
def test_names_are_the_same_on_every_sm_and_their_own(sm: str) -> None:
    names = [kernel.name for kernel in tiles.kernels(sm)]
    assert len(set(names)) == len(names)
    assert names == [kernel.name for kernel in tiles.kernels("80")]


@needs_build
def test_siblings_of_sm_80_can_be_launched_like_it() -> None:
    """A device 8.7 runs the code of sm_86 or the PTX of sm_80: the driver decides, not we."""
    of = {(name, sm): needs for name, sm, needs in rows()}
    for (name, sm), needs in of.items():
        if sm in ("86", "89"):
            first = of[name, "80"]
            for what in ("threads", "bm", "bn"):
                assert needs.get(what) == first.get(what), (name, sm)
            assert needs["shared_bytes"] <= first["shared_bytes"], (name, sm)


@needs_build
def test_shared_memory_fits_and_ptx_of_sm_80_fits_every_gpu() -> None:
    for name, sm, needs in rows():
        # Later devices without code of their own run sm_80's PTX; the smallest of them have 99 KiB.
        limit = min(tiles.SHARED_LIMITS.values()) if sm == "80" else tiles.SHARED_LIMITS[sm]
        assert needs["shared_bytes"] <= limit, (name, sm)
