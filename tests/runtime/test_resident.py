"""Mapped weights are given back while something reads them."""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_export.runtime import resident
from moe_export.runtime.binding import Binding

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and takes back")
def test_pages_of_a_mapped_file_are_given_back_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx.data"
    numbers = np.random.default_rng(0).integers(0, 256, 64 * MIB, np.uint8)
    numbers.tofile(path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    seen = np.frombuffer(mapped, np.uint8)
    before = resident._shared_bytes()
    assert np.array_equal(seen, numbers)
    assert resident._shared_bytes() >= before + 60 * MIB
    with resident.trimmed(tmp_path, limit=0), resident.in_use():
        for _ in range(100):
            if resident._shared_bytes() < before + 8 * MIB:
                break
            time.sleep(0.02)
        assert resident._shared_bytes() < before + 8 * MIB
        assert np.array_equal(seen, numbers)


def test_nothing_is_given_back_while_no_graph_runs(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx.data"
    path.write_bytes(bytes(16 * MIB))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    assert not any(np.frombuffer(mapped, np.uint8))
    before = resident._shared_bytes()
    with resident.trimmed(tmp_path, limit=0):
        time.sleep(0.1)
    assert resident._shared_bytes() >= before - MIB


def test_a_mapping_that_was_written_to_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx.data"
    path.write_bytes(bytes(16 * MIB))
    with path.open("rb") as file:
        mapped = mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    mapped[5] = 7
    with resident.trimmed(tmp_path, limit=0), resident.in_use():
        time.sleep(0.1)
    assert mapped[5] == 7


def test_a_smaller_budget_keeps_fewer_pages() -> None:
    limits = [resident.limit_within(budget) for budget in (None, 4 << 30, 1 << 30, 1 << 29)]
    assert limits == [resident.LIMIT, resident.LIMIT, 1 << 27, 1 << 26]


def test_a_run_whose_end_is_interrupted_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __enter__(self) -> None:
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(resident, "_LOCK", Interrupted())
    with pytest.raises(KeyboardInterrupt), resident.in_use():
        assert len(resident._running) == 1
    assert not resident._running


def test_a_run_on_bound_arrays_is_a_graph_that_runs() -> None:
    class Graph:
        def io_binding(self) -> None: ...

        def run_with_iobinding(self, *_: object) -> None:
            self.found = len(resident._running)

    graph: Any = Graph()
    Binding(graph, (), ()).run()
    assert graph.found == 1
    assert not resident._running
