"""tools/bench/layers.py on its smallest layer: it runs, and its engines compute the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "tools" / "bench" / "layers.py"
ENGINES = ["moe-export", "moe-export, Router too", "torch eager", "onnxruntime MoE"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    command = [
        sys.executable, HARNESS, "--layers", "tiny", "--tokens", "1", "16",
        "--precisions", "f32", "int4", "--engines", *ENGINES,
        "--rounds", "1", "--turn-seconds", "0.001", "--threads", "1",
        "--cache", folder / "cache", "--json", folder / "layers.json",
    ]  # fmt: skip
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "layers.json").read_text()), result.stdout


def test_every_engine_has_a_row_in_every_cell_or_a_reason_why_not(measured):
    found, _ = measured
    rows = {(row["precision"], row["tokens"], row["engine"]) for row in found["rows"]}
    expected = {
        (precision, tokens, engine)
        for precision in ("f32", "int4")
        for tokens in (1, 16)
        for engine in ENGINES
    }
    missing = expected - rows
    assert missing == {("int4", tokens, "torch eager") for tokens in (1, 16)}
    assert any("PyTorch has no int4 experts" in line for line in found["left_out"])


def test_engines_compute_what_their_stored_weights_say(measured):
    """Within float32 arithmetic for f32; for int4 within rows of int8, a few times 1/127 a row."""
    bounds = {"f32": 1e-5, "int4": 3 / 127}
    for row in measured[0]["rows"]:
        assert 0 < row["error_of_stored"] < bounds[row["precision"]], row


def test_the_table_has_a_line_for_each_row_and_a_star_for_the_best_peer(measured):
    found, table = measured
    lines = [line for line in table.splitlines() if line.startswith("tiny")]
    assert len(lines) == len(found["rows"])
    assert sum("*" in line for line in lines) == 4
