"""A stage that takes more memory than it may is ended, and what was there before is there again."""

from __future__ import annotations

import mmap
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from moe_export import budget
from moe_export.budget import Stages, memory_in_use
from moe_export.errors import MemoryBudgetError

MIB = 1 << 20
PATIENCE_S = 60
LIMIT = 100


class Memory:
    """As much as a test says; ``looked`` is set once somebody has seen it above ``LIMIT``."""

    def __init__(self) -> None:
        self.in_use = 1
        self.looked = threading.Event()

    def __call__(self) -> int:
        if self.in_use > LIMIT:
            self.looked.set()
        return self.in_use


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    made = Memory()
    monkeypatch.setattr(budget, "memory_in_use", made)
    return made


@pytest.fixture
def stage() -> Stages:
    return Stages(LIMIT, lambda name: None)


def waits(memory: Memory) -> str:
    """Takes too much and then waits, which an interruption ends."""
    memory.in_use = LIMIT + 1
    threading.Event().wait(PATIENCE_S)
    return "it was not interrupted"


def test_a_stage_within_its_budget_is_a_call_of_its_function(memory: Memory) -> None:
    heard: list[str] = []
    assert Stages(LIMIT, heard.append)("load", divmod, 7, 2) == (3, 1)
    assert Stages(None, heard.append)("rewrite", divmod, 9, 2) == (4, 1)
    assert heard == ["load", "rewrite"]


def test_a_stage_that_takes_too_much_is_interrupted_in_its_midst() -> None:
    seen: list[str] = []

    def greedy() -> None:
        taken = np.ones(200 * MIB, np.uint8)
        threading.Event().wait(PATIENCE_S)
        seen.append(f"still had {taken.nbytes}")

    with pytest.raises(MemoryBudgetError, match=r"more than the .* that --max-memory") as refusal:
        Stages(memory_in_use() + 64 * MIB, seen.append)("capture", greedy)
    assert seen == ["capture"]
    assert refusal.value.where == "the stage capture"
    assert refusal.value.exit_code == 6


def test_the_size_that_was_reached_and_the_budget_are_said(stage: Stages, memory: Memory) -> None:
    with pytest.raises(MemoryBudgetError, match="101 B of memory were in use, more than the 100 B"):
        stage("load", waits, memory)


def test_no_stage_begins_where_too_much_is_in_use_already(stage: Stages, memory: Memory) -> None:
    memory.in_use = LIMIT + 1
    began: list[None] = []
    with pytest.raises(MemoryBudgetError):
        stage("load", began.append, None)
    assert began == []


def test_what_is_left_when_a_stage_ends_counts_too(stage: Stages, memory: Memory) -> None:
    with pytest.raises(MemoryBudgetError):
        stage("load", setattr, memory, "in_use", LIMIT + 1)


def test_the_signal_is_handled_as_before_and_no_thread_is_left(
    stage: Stages, memory: Memory
) -> None:
    late = []

    def handler(number: int, frame: object) -> None:
        late.append(number)

    before = signal.signal(signal.SIGURG, handler)
    try:
        stage("load", int)
        assert signal.getsignal(signal.SIGURG) is handler
        with pytest.raises(MemoryBudgetError):
            stage("load", waits, memory)
        assert signal.getsignal(signal.SIGURG) is handler
    finally:
        signal.signal(signal.SIGURG, before)
    assert not late
    assert "memory" not in {thread.name for thread in threading.enumerate()}


def test_a_signal_from_elsewhere_interrupts_nothing(stage: Stages, memory: Memory) -> None:
    stage("load", signal.raise_signal, signal.SIGURG)


def test_code_that_goes_on_after_failures_does_not_go_on_after_this(
    stage: Stages, memory: Memory
) -> None:
    def careless() -> None:
        try:
            waits(memory)
        except Exception:  # noqa: BLE001 - as other people's code has it
            pytest.fail("it was taken for a failure")

    with pytest.raises(MemoryBudgetError):
        stage("load", careless)


def test_code_that_goes_on_after_anything_is_told_when_it_ends(
    stage: Stages, memory: Memory
) -> None:
    def stubborn() -> None:
        try:
            waits(memory)
        except BaseException:  # noqa: BLE001 - as other people's code has it
            memory.in_use = 1

    with pytest.raises(MemoryBudgetError, match="101 B"):
        stage("load", stubborn)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_how_else_a_stage_ends_is_left_alone(
    stage: Stages, memory: Memory, error: type[BaseException]
) -> None:
    def ends() -> None:
        raise error("of its own")

    with pytest.raises(error, match="of its own"):
        stage("load", ends)


def test_outside_of_the_main_thread_a_stage_is_told_when_it_ends(
    stage: Stages, memory: Memory
) -> None:
    ended = []

    def brief() -> None:
        memory.in_use = LIMIT + 1
        assert memory.looked.wait(PATIENCE_S)
        memory.in_use = 1
        ended.append("of itself")

    with ThreadPoolExecutor(1) as pool, pytest.raises(MemoryBudgetError, match="101 B"):
        pool.submit(stage, "load", brief).result()
    assert ended == ["of itself"]


def test_pages_of_a_mapped_file_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(64 * MIB))
    before = memory_in_use()
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    assert not np.frombuffer(mapped, np.uint8).any()
    assert memory_in_use() < before + 16 * MIB
    # Not from an allocator, which may have kept as much of what was freed before.
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        taken.write(b"1" * (64 * MIB))
        assert memory_in_use() > before + 60 * MIB


HOLDS = """
import sys
taken = b"1" * (64 << 20)
print("taken", flush=True)
sys.stdin.read()
"""


def test_what_a_program_takes_that_was_started_counts_while_it_runs() -> None:
    before = memory_in_use()
    command = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"taken\n"
        assert memory_in_use() > before + 60 * MIB
    assert memory_in_use() < before + 32 * MIB


FORKS = """
import os
from moe_export.budget import memory_in_use
taken = b"1" * (64 << 20)
before = memory_in_use()
ours, theirs = os.pipe()
if not os.fork():
    os.close(theirs)
    os._exit(len(os.read(ours, 1)))
os.close(ours)
assert memory_in_use() < before + (32 << 20)
os.close(theirs)
os.wait()
"""


def test_what_a_forked_process_shares_does_not_count_twice() -> None:
    subprocess.run([sys.executable, "-c", FORKS], check=True)


def test_where_the_system_does_not_tell_it_is_the_most_there_ever_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = memory_in_use()
    monkeypatch.setattr(budget, "_PROC", tmp_path)
    assert memory_in_use() >= known
