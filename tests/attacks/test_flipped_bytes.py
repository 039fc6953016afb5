"""Whatever byte of a bundle changes, it does not load; with digests rewritten, it fails cleanly."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks.hostile import replace_file
from moe_export.errors import MoeExportError, UnsafeInputError
from moe_export.runtime import Bundle, Session

ONE_VICTIM = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


def spots(root: Path) -> list[tuple[Path, int]]:
    """Every file and its size; a byte is chosen by file first, so that small files get theirs."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [(path, path.stat().st_size) for path in files]


@ONE_VICTIM
@given(data=st.data())
def test_no_flipped_bit_loads_silently(victim, data):
    path, size = data.draw(st.sampled_from(spots(victim)))
    position = data.draw(st.integers(0, size - 1))
    content = path.read_bytes()
    flipped = content[position] ^ 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
    try:
        with pytest.raises(UnsafeInputError) as refusal:
            Bundle.open(victim)
    finally:
        path.write_bytes(content)
    assert str(path.relative_to(victim)) in refusal.value.where
    Bundle.open(victim)


@ONE_VICTIM
@given(data=st.data())
def test_a_graph_of_garbage_with_digests_in_order_never_ends_in_a_traceback(victim, data):
    graph = victim / "onnx/model.onnx"
    content, manifest = graph.read_bytes(), (victim / "moe_export.json").read_bytes()
    changed = bytearray(content)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        changed[position] = data.draw(st.integers(0, 255))
    replace_file(victim, "onnx/model.onnx", bytes(changed))
    inputs = {"tokens": np.zeros((1, 2), np.int64), "image": np.zeros((1, 2, 2), np.float32)}
    try:
        with contextlib.suppress(MoeExportError), Session(victim, threads=1) as session:
            session.run(inputs)
    finally:
        graph.write_bytes(content)
        (victim / "moe_export.json").write_bytes(manifest)
