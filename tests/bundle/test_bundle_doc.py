"""The specification names what the code writes."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from moe_export import manifest
from moe_export.bundle.weights import ALIGNMENT
from moe_export.dialogue import CropRecipe, Dialogue, PatchRecipe, Prompt, TileRecipe
from moe_export.manifest import ComponentRecord, Manifest
from moe_export.strict_json import MAX_DEPTH

DOC = Path(__file__).parents[2].joinpath("docs/bundle.md").read_text()
FIELDS = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?`) \|", DOC, re.MULTILINE))))


@pytest.mark.parametrize(
    "kind", [Manifest, ComponentRecord, Dialogue, Prompt, PatchRecipe, TileRecipe, CropRecipe]
)
def test_every_field_is_in_a_table(kind):
    missing = {field.name for field in fields(kind)} - FIELDS
    assert not missing


def test_every_role_and_verdict_is_named():
    for word in (*get_args(manifest.Role), *get_args(manifest.Verdict)):
        assert f"`{word}`" in DOC, word


def test_the_numbers_are_those_of_the_code():
    assert f"multiple of {ALIGNMENT} bytes" in DOC
    assert f"at most {manifest.MAX_BYTES // 2**20} MiB" in DOC
    assert f"nesting beyond {MAX_DEPTH} levels" in DOC
    assert f"{manifest.MAX_FILES:,}".replace(",", " ") + " files" in DOC
    assert f"schema version {manifest.SCHEMA_VERSION}." in DOC
