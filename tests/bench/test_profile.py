from __future__ import annotations

import json

import pytest

from moe_export.bench.profile import read_profile


def run(start, length):
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": length}


def node(op, start, length):
    return {
        "cat": "Node",
        "name": f"{op}_kernel_time",
        "ts": start,
        "dur": length,
        "args": {"op_name": op},
    }


@pytest.fixture
def profile(tmp_path):
    def write(*events):
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(events))
        return path

    return write


def facts(times):
    return [(time.op, time.calls, round(time.seconds * 1e6)) for time in times]


def test_what_runs_inside_another_counts_for_the_outer_one(profile):
    path = profile(
        node("Add", 11, 5), node("MatMul", 17, 20), node("Loop", 10, 60), node("Add", 71, 4),
        run(9, 80),
    )  # fmt: skip
    assert facts(read_profile(path)) == [("Loop", 1, 60), ("Add", 1, 4)]


def test_an_operator_has_the_median_of_the_runs(profile):
    events = []
    for number, length in enumerate((5, 900, 6)):
        start = 1000 * number
        events += [run(start, 990), node("Experts", start + 1, length), node("Add", start + 950, 2)]
    assert facts(read_profile(profile(*events))) == [("Experts", 1, 6), ("Add", 1, 2)]


def test_the_first_runs_are_left_out(profile):
    path = profile(run(0, 50), node("Add", 1, 40), run(100, 50), node("Add", 101, 3))
    assert facts(read_profile(path, skipped_runs=1)) == [("Add", 1, 3)]
    with pytest.raises(ValueError, match="no runs"):
        read_profile(path, skipped_runs=2)


def test_this_project_s_ops_are_known(profile):
    path = profile(run(0, 50), node("Experts", 1, 9), node("Router", 11, 3), node("MatMul", 20, 1))
    assert [time.op for time in read_profile(path) if time.is_moe] == ["Experts", "Router"]
