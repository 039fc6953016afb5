from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from moe_export import needs, plan
from moe_export.cli import plan as command
from moe_export.load import load
from moe_export.moe.quantize import parse_precision
from moe_export.spec import export_spec
from plan_facts import FACTS


@pytest.fixture
def planned(invoke, named):
    result = invoke("plan", *named, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_export_s_peak_memory_and_disk_were_foreseen(planned, exported):
    files = [path for path in exported.bundle.rglob("*") if path.is_file()]
    disk = sum(path.stat().st_size for path in files)
    assert planned["disk_bytes"]["low"] <= disk <= planned["disk_bytes"]["high"]
    peak, own = planned["peak_bytes"], planned["own_bytes"]
    assert peak["low"] <= exported.peak_bytes <= peak["high"]
    assert own["low"] <= exported.own_bytes <= own["high"]


def test_the_disk_of_a_precision_was_foreseen(rounded, invoke, named):
    output, _ = rounded
    result = invoke("plan", *named, "--precision", "int8:64", "--json")
    assert result.exit_code == 0, result.stderr
    disk = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    foreseen = json.loads(result.stdout)["disk_bytes"]
    assert foreseen["low"] <= disk <= foreseen["high"]


def test_fewer_bits_take_less_of_the_disk():
    lows = [
        plan.plan(FACTS, parse_precision(text)).disk_bytes.low
        for text in ("f32", "bf16", "int8", "int4")
    ]
    assert lows == sorted(lows, reverse=True)
    assert lows[0] - lows[2] == 3 * 8 * 1024 * 4096


def test_blocks_are_counted_by_structure(planned):
    blocks = [(block["path"], block["experts"]) for block in planned["facts"]["blocks"]]
    assert blocks == [("moes.0", 4), ("moes.1", 4), ("strange", 4)]
    assert {block["hidden_size"] for block in planned["facts"]["blocks"]} == {8}


def test_forward_is_never_run():
    class Untouched(torch.nn.Linear):
        def forward(self, x):
            raise AssertionError("it was run")

    loaded = load(export_spec(Untouched(3, 2), example_inputs=(torch.ones(5, 3),)))
    facts = plan.facts(loaded)
    assert (facts.elements, facts.weight_bytes, facts.blocks) == (8, 32, ())


def test_a_tied_weight_counts_once():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    facts = plan.facts(load(export_spec(model, example_inputs=(torch.ones(1, 4),))))
    assert (facts.tensors, facts.elements) == (3, 24)


class Merger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(32, 32), torch.nn.Linear(32, 8)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


class Tower(torch.nn.Module):
    """As a vision tower whose mergers are as wide as twice its places."""

    def __init__(self):
        super().__init__()
        self.places = torch.nn.Embedding(16, 8)
        self.mergers = torch.nn.ModuleList(Merger() for _ in range(3))

    def forward(self, x):
        return sum(merger(x) for merger in self.mergers)


def test_a_table_of_places_is_no_router():
    model = torch.nn.Sequential(Tower())
    facts = plan.facts(load(export_spec(model, example_inputs=(torch.ones(1, 32),))))
    assert facts.blocks == ()
    assert facts.outer_tensors == facts.tensors == 13


def test_more_of_anything_never_costs_less():
    block = plan.BlockFacts(path="a", experts=8, hidden_size=64, elements=10_000)
    facts = plan.Facts(
        weight_bytes=80_000,
        elements=20_000,
        tensors=50,
        largest_tensor=9_000,
        is_lazy=False,
        blocks=(block,),
        tokens=32,
        output_size=99,
    )
    base = plan.plan(facts)
    for more in (
        replace(facts, weight_bytes=10**9),
        replace(facts, elements=10**9),
        replace(facts, tensors=10**5),
        replace(facts, blocks=(block,) * 9),
        replace(facts, tokens=10**5),
    ):
        grown = plan.plan(more)
        for cost in ("peak_bytes", "own_bytes", "disk_bytes", "cpu_seconds"):
            assert getattr(grown, cost).low >= getattr(base, cost).low
            assert getattr(grown, cost).high >= getattr(base, cost).high
        assert grown != replace(base, facts=more)


def test_a_slower_core_takes_longer_and_nothing_more():
    facts = plan.facts(load(export_spec(torch.nn.Linear(3, 2), example_inputs=(torch.ones(5, 3),))))
    here, slower = plan.plan(facts), plan.plan(facts, slowness=3)
    assert slower.cpu_seconds.low == pytest.approx(3 * here.cpu_seconds.low, abs=2)
    assert replace(slower, cpu_seconds=here.cpu_seconds) == here
    assert plan.core_slowness() > 0


def test_a_person_reads_ranges(invoke, named):
    result = invoke("plan", *named)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "tiny_vlm:tiny: 14.7 KiB of weights, 3 MoE blocks with 12 experts"
    )
    for label in ("peak memory", "disk", "time"):
        assert f"  {label}" in result.stdout


def test_a_module_of_nothing_has_a_plan_too():
    loaded = load(export_spec(torch.nn.Identity(), example_inputs=(torch.ones(3),)))
    assert plan.plan(plan.facts(loaded)).facts.largest_tensor == 0


@pytest.mark.parametrize(
    ("room", "name"), [(command, "memory_bytes"), (needs, "free_bytes")], ids=["memory", "disk"]
)
def test_what_cannot_fit_exits_with_6(invoke, named, monkeypatch, room, name):
    monkeypatch.setattr(room, name, lambda *_: 1000)
    result = invoke("plan", *named)
    assert result.exit_code == 6
    assert "1000 B are" in result.stderr
    assert "peak memory" in result.stdout


@pytest.mark.parametrize(
    ("budget", "words", "enough", "status"),
    [
        ("100GiB", "is enough", "yes", 0),
        ("300MiB", "may be too little", "perhaps", 0),
        ("100MiB", "is too little", "no", 6),
    ],
)
def test_a_budget_is_held_against_the_plan(invoke, named, budget, words, enough, status):
    told = invoke("plan", *named, "--max-memory", budget)
    assert told.exit_code == status
    assert words in told.stdout
    assert ("--max-memory allows 100 MiB" in told.stderr) == bool(status)
    result = invoke("plan", *named, "--max-memory", budget, "--json")
    assert result.exit_code == status
    assert json.loads(result.stdout)["max_memory"]["enough"] == enough


def test_without_a_budget_nothing_is_said_of_one(planned, invoke, named):
    assert planned["max_memory"] is None
    assert "of it own" not in invoke("plan", *named).stdout
