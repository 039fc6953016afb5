"""The same model exported twice is the same bundle, byte for byte, and knows no machine."""

from __future__ import annotations

import os
from pathlib import Path

import moe_export
from moe_export import Bundle

from . import tiny
from .conftest import Made


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_repeated_export_has_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    again = moe_export.export(
        tiny.build(),
        output=tmp_path / "elsewhere",
        example_inputs=tiny.example_inputs(),
        target=bundle.manifest.target,
    )
    _require_equal(contents(bundle.path), contents(again.path))


def test_a_repeated_export_in_a_precision_has_the_same_bytes(made: Made, tmp_path: Path) -> None:
    first = made("ort", "int4+zeros")
    again = moe_export.export(
        tiny.build(),
        output=tmp_path / "elsewhere",
        example_inputs=tiny.example_inputs(),
        precision="int4:32+zeros",
    )
    _require_equal(contents(first.path), contents(again.path))


def _require_equal(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_no_file_of_a_bundle_names_this_machine(bundle: Bundle) -> None:
    words = [os.getcwd().encode(), str(Path.home()).encode() + b"/", os.uname().nodename.encode()]
    for name, content in contents(bundle.path).items():
        assert not [word for word in words if len(word) > 3 and word in content], name
