"""A validation has one golden case in memory at a time, and ends where even that is too much."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bundle import toy
from moe_export import needs
from moe_export.budget import memory_in_use
from moe_export.errors import MemoryBudgetError
from moe_export.forms import Golden, GoldenCase, TargetModel

MIB = 1 << 20
CASES, ROWS = 8, 2**19  # 8 MiB of inputs, 6 of outputs and 12 of their reference in each case
# By how much two runs of one program may differ, and less than a case.
SLACK = 24 * MIB

# The program, and behind it the most that was in use, as it looks itself.
_WATCHED = """
import sys, threading
from moe_export.budget import memory_in_use
from moe_export.cli import main
ended, seen = threading.Event(), [0]

def look():
    while not ended.wait(0.005):
        seen[0] = max(seen[0], memory_in_use())

looking = threading.Thread(target=look)
looking.start()
try:
    main()
finally:
    ended.set()
    looking.join()
    print("most in use", seen[0], file=sys.stderr)
"""


def case(number: int) -> GoldenCase:
    """``LINEAR`` on many rows, as eager and in float64."""
    x = np.random.default_rng(number).standard_normal((ROWS, 4), np.float32)
    y = x @ toy.W + np.array([10, 20, 30], np.float32)
    return GoldenCase(
        name=f"case {number}",
        inputs={"x": x},
        outputs={"y": y},
        outputs_reference={"y": y.astype(np.float64)},
        outputs_edge_error={"y": np.zeros(())},
        outputs_rewritten_error={"y": np.full((), np.nan)},
        layers={},
    )


def model(cases: int) -> TargetModel:
    made = toy.linear_model()
    golden = Golden(cases=tuple(map(case, range(cases))))
    portable = replace(made.portable, golden=golden)
    components = {"model": replace(made.components["model"], probes={})}
    return replace(made, portable=portable, components=components)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("large")
    made = {count: folder / f"{count}.moe" for count in (1, CASES)}
    for count, path in made.items():
        toy.export(model(count), path)
    return made


def validated(bundle: Path, *words: str) -> tuple[int, str, int]:
    """Exit status, what was said, and the most that was in use."""
    command = [sys.executable, "-c", _WATCHED, "validate", str(bundle), *words]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    said, _, most = child.stderr.rpartition("most in use ")
    return child.returncode, said, int(most)


def test_many_cases_take_no_more_memory_than_one(bundles: dict[int, Path]) -> None:
    golden = (bundles[CASES] / "golden/golden.safetensors").stat().st_size
    status, said, alone = validated(bundles[1])
    assert (status, said) == (0, "")
    status, said, many = validated(bundles[CASES], "--max-memory", str(alone + SLACK))
    assert (status, said) == (0, "")
    assert many - alone < SLACK < golden // 4


def test_a_validation_that_takes_more_ends_with_6(bundles: dict[int, Path]) -> None:
    _, _, alone = validated(bundles[1])
    status, said, _ = validated(bundles[CASES], "--max-memory", str(alone - SLACK))
    assert status == 6
    assert re.search("--max-memory allows|that --max-memory", said)


def test_a_budget_that_no_run_fits_is_refused_before_any() -> None:
    golden = Golden(cases=(case(0),))
    of_a_run = 14 * MIB
    needs.require_memory_to_validate(golden, 100 * MIB, 100 * MIB + of_a_run)
    needs.require_memory_to_validate(golden, 100 * MIB, None)
    with pytest.raises(MemoryBudgetError, match="at least 114 MiB of memory") as refusal:
        needs.require_memory_to_validate(golden, 100 * MIB, 100 * MIB + of_a_run - 1)
    assert refusal.value.where == "--max-memory"


def test_golden_tensors_are_in_the_file_until_one_is_asked_for(bundles: dict[int, Path]) -> None:
    from moe_export.runtime import Bundle

    bundle = Bundle.open(bundles[CASES])
    before = memory_in_use()
    golden = bundle.golden()
    kept = golden.cases[0].inputs["x"]
    assert memory_in_use() - before < 26 * MIB  # of the 208 in the file
    assert np.array_equal(kept, case(0).inputs["x"])
