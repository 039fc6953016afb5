"""The same model exported twice is the same bundle, byte for byte, and knows no machine."""

from __future__ import annotations

import os
from pathlib import Path

import moe_export
from moe_export import Bundle

from . import tiny


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_repeated_export_has_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    again = moe_export.export(
        tiny.build(), output=tmp_path / "elsewhere", example_inputs=tiny.example_inputs()
    )
    first, second = contents(bundle.path), contents(again.path)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_no_file_of_a_bundle_names_this_machine(bundle: Bundle) -> None:
    words = [os.getcwd().encode(), str(Path.home()).encode() + b"/", os.uname().nodename.encode()]
    for name, content in contents(bundle.path).items():
        assert not [word for word in words if len(word) > 3 and word in content], name
