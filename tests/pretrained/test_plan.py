"""What a plan says of a Transformers directory, and what its bundles take."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_export import plan
from moe_export.load import load
from moe_export.moe.quantize import parse_precision
from moe_export.runtime import Bundle
from moe_export.spec import export_spec


@pytest.fixture(scope="module")
def facts(vision_source: Path) -> plan.Facts:
    return plan.facts(load(export_spec(vision_source)))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_disk_that_a_bundle_takes_was_foreseen(
    facts: plan.Facts, exported: dict[str, Bundle], precision: str
) -> None:
    foreseen = plan.plan(facts, parse_precision(precision)).disk_bytes
    files = exported[precision].manifest.files.values()
    assert foreseen.low <= sum(record.bytes for record in files) <= foreseen.high
    assert foreseen.high <= 1.25 * foreseen.low


def test_weights_of_fewer_bits_take_less(facts: plan.Facts) -> None:
    sizes = [
        plan.plan(facts, parse_precision(name), parse_precision(name)).disk_bytes.low
        for name in ("f32", "bf16", "int8", "int4")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
