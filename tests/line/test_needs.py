"""What cannot fit is refused before it begins, and what did not fit in the end leaves nothing."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle import toy
from moe_export import budget, needs, pipeline, plan
from moe_export.bundle import disk
from moe_export.errors import DiskFullError, MemoryBudgetError
from moe_export.forms import ExportSpec, Report, TensorParity
from moe_export.load import load
from moe_export.moe.quantize import parse_precision
from moe_export.runtime import Bundle
from moe_export.spec import export_spec
from plan_facts import FACTS

MIB = 1 << 20
PATIENCE_S = 60


def planned(precision: str = "f32") -> plan.Plan:
    return plan.plan(FACTS, parse_precision(precision))


@pytest.mark.parametrize(("beyond", "word"), [(0, "yes"), (-1, "perhaps")])
def test_a_budget_within_the_foreseen_range_may_be_enough(beyond: int, word: str) -> None:
    made = planned()
    assert needs.enough_memory(made, made.own_bytes.high + beyond) == word
    needs.require_memory(made, made.own_bytes.low)
    needs.require_memory(made, None)


def test_a_budget_below_the_foreseen_range_is_refused_with_both() -> None:
    made = replace(planned(), own_bytes=plan.Range(low=300 * MIB, high=500 * MIB))
    assert needs.enough_memory(made, 299 * MIB) == "no"
    with pytest.raises(MemoryBudgetError, match="300 MiB to 500 MiB") as refusal:
        needs.require_memory(made, 299 * MIB)
    assert "--max-memory allows 299 MiB" in refusal.value.message
    assert refusal.value.hint == "500 MiB should be enough"


def test_bundle_and_quantised_weights_have_to_fit_on_one_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned("int8")
    both = made.disk_bytes.low + made.scratch_bytes
    monkeypatch.setattr(needs, "free_bytes", lambda folder: both)
    needs.require_disk(made, tmp_path / "out", tmp_path)
    monkeypatch.setattr(needs, "free_bytes", lambda folder: both - 1)
    with pytest.raises(MemoryBudgetError, match=r"meanwhile need at least .* are free") as refusal:
        needs.require_disk(made, tmp_path / "out", tmp_path)
    assert refusal.value.where == str(tmp_path)


def test_on_two_disks_each_has_to_hold_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/dev/shm")  # noqa: S108 - nothing is written there
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    made = planned("int8")
    free = {tmp_path: made.disk_bytes.low, other: made.scratch_bytes}
    monkeypatch.setattr(needs, "free_bytes", free.__getitem__)
    needs.require_disk(made, tmp_path / "out", other)
    for folder, words in ((tmp_path, "the bundle needs"), (other, "the quantised weights that")):
        monkeypatch.setattr(needs, "free_bytes", {**free, folder: 1000}.__getitem__)
        with pytest.raises(MemoryBudgetError, match=f"^{words} .* 1000 B are free") as refusal:
            needs.require_disk(made, tmp_path / "out", other)
        assert refusal.value.where == str(folder)


@pytest.fixture
def spec(tmp_path: Path) -> ExportSpec:
    model = torch.nn.Linear(4, 3)
    return export_spec(
        model,
        target="standard",
        output=tmp_path / "out",
        example_inputs=(torch.ones(2, 4),),
        max_memory="500GiB",
    )


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, spec: ExportSpec) -> list[str]:
    """A line whose first stages give a model made by hand, and the stages that were begun."""
    loaded, number = load(spec), TensorParity(
        case="a", name="y", kind="output", elements=1, max_error=0.0, relative_error=0.0,
        cosine=1.0, eager_error=0.0, tolerance=0.0, passed=True,
    )  # fmt: skip
    made = Report(source="s", target="standard", against="golden", tensors=(number,), routing=())
    results: dict[str, Any] = {
        "load": loaded,
        "rewrite": None,
        "capture": None,
        "lower": toy.linear_model(),
        "validate": made,
    }
    for name, result in results.items():
        monkeypatch.setattr(pipeline, name, lambda *_, result=result: result)
    return []


def test_the_line_made_by_hand_ends_with_a_bundle(spec: ExportSpec, begun: list[str]) -> None:
    pipeline.run(spec, begun.append)
    assert tuple(begun) == pipeline.STAGES
    assert Bundle.open(spec.output).manifest.verdict == "passed"


@pytest.mark.parametrize("name", ["bundle", "validate"])
def test_too_much_memory_leaves_nothing_new_and_the_old_bundle_whole(
    spec: ExportSpec, begun: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = pipeline.run(spec).bundle.manifest.digest
    function, in_use = getattr(pipeline, name), [0]

    def greedy(*args: Any) -> None:
        function(*args)
        assert [path.name for path in spec.output.parent.iterdir() if ".partial-" in path.name]
        in_use[0] = 1 << 60
        threading.Event().wait(PATIENCE_S)

    monkeypatch.setattr(pipeline, name, greedy)
    monkeypatch.setattr(budget, "memory_in_use", lambda: in_use[0])
    with pytest.raises(MemoryBudgetError, match="allows") as refusal:
        pipeline.run(replace(spec, force=True), begun.append)
    assert refusal.value.where == f"the stage {name}"
    assert begun[-1] == name
    assert list(spec.output.parent.iterdir()) == [spec.output]
    assert Bundle.open(spec.output).manifest.digest == before


def test_too_little_memory_is_said_before_anything_is_run(
    spec: ExportSpec, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "memory_in_use", lambda: 0)
    with pytest.raises(MemoryBudgetError, match="is foreseen to have"):
        pipeline.run(replace(spec, max_memory=100 * MIB), begun.append)
    assert begun == ["load"]


def test_too_little_disk_is_said_before_anything_is_run(
    spec: ExportSpec, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "free_bytes", lambda folder: 1000)
    with pytest.raises(MemoryBudgetError, match=r"the bundle needs at least .* 1000 B are free"):
        pipeline.run(spec, begun.append)
    assert begun == ["load"]
    assert list(spec.output.parent.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_told_with_what_was_foreseen(
    spec: ExportSpec, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"the disk is full: .* foreseen to take \d") as refusal:
        pipeline.run(spec, begun.append)
    assert refusal.value.exit_code == 6
    assert begun[-1] == "bundle"
    assert list(spec.output.parent.iterdir()) == []
