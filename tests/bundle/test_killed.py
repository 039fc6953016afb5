"""Kill an export whenever: its output is whole or absent, and the next one finds a clean place."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from bundle.toy import export, linear_model
from moe_export.bundle import staging as staging_room
from moe_export.runtime import Bundle

WEIGHTS = {f"weight{i:03}": np.full((64, 64), i, np.float32) for i in range(40)}
DELAY_S = 0.005

CONTEXT = multiprocessing.get_context("fork")


def slow_export(output: Path, number: int, *, force: bool) -> None:
    """An export whose weights take about 0.2 s to read; ``number`` is its mark."""
    marked = WEIGHTS | {"mark": np.full((number,), number, np.float32)}
    export(linear_model(marked, delay_s=DELAY_S), output, force=force)


def mark(output: Path) -> int:
    """Which export wrote the bundle, after every byte of it was verified."""
    manifest = Bundle.open(output).manifest
    # Weights lie in order of name: "mark" before all "weight...", the first at a page of its own.
    data = output / manifest.components["model"].data
    return int(np.fromfile(data, np.float32, 1)[0])


def killed_after(seconds: float, output: Path, number: int, *, force: bool) -> None:
    child = CONTEXT.Process(target=slow_export, args=(output, number), kwargs={"force": force})
    child.start()
    child.join(seconds)
    child.kill()
    child.join()


def whole_run_s(output: Path) -> float:
    started = time.monotonic()
    slow_export(output, 1, force=False)
    return time.monotonic() - started


@pytest.mark.parametrize("force", [False, True], ids=["first", "replacing"])
def test_a_killed_export_leaves_the_output_whole_or_as_it_was(tmp_path, force):
    duration = whole_run_s(tmp_path / "measured")
    moments = random.Random(20)
    interrupted = 0
    for number in range(2, 12):
        output = tmp_path / ("out" if force else f"out{number}")
        if force and number == 2:
            slow_export(output, 1, force=False)
        before = mark(output) if force else None
        # One moment in each tenth of the run and a little beyond its end.
        seconds = duration * 1.1 * (number - 2 + moments.random()) / 10
        killed_after(seconds, output, number, force=force)
        after = mark(output) if output.exists() else None
        assert after in (before, number)
        interrupted += after == before
    assert interrupted >= 5, "the kills came too late to test anything"

    export(linear_model(), tmp_path / ("out" if force else "out2"), force=True)
    left = [path.name for path in tmp_path.iterdir() if ".partial-" in path.name]
    assert all(name.startswith(".out") for name in left)
    assert not [name for name in left if name.startswith(".out." if force else ".out2.")]


@pytest.mark.parametrize("name", ["rename_exchange", "sync_folder", "sync_tree", "replace_file"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_beside_the_last_steps_leaves_an_old_or_a_new_bundle(tmp_path, name, moment):
    output = tmp_path / "out"
    export(linear_model({"mark": np.full(1, 1, np.float32)}), output)

    def child() -> None:
        step = getattr(staging_room, name)

        def fatal(*args):
            if moment == "after":
                step(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(staging_room, name, fatal)
        export(linear_model({"mark": np.full(2, 2, np.float32)}), output, force=True)

    process = CONTEXT.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    exchanged = name == "sync_folder" or (name, moment) == ("rename_exchange", "after")
    assert mark(output) == (2 if exchanged else 1)
    assert len(list(tmp_path.iterdir())) == 2, "the killed export left its folder"
    export(linear_model({"mark": np.full(3, 3, np.float32)}), output, force=True)
    assert mark(output) == 3
    assert list(tmp_path.iterdir()) == [output]
