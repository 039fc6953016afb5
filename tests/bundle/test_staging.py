from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bundle import toy
from bundle.toy import export, linear_model
from moe_export.bundle import bundle, disk, exchange
from moe_export.bundle import staging as staging_room
from moe_export.bundle.signals import undivided
from moe_export.bundle.staging import publish, seal, staging
from moe_export.errors import MemoryBudgetError, UsageError
from moe_export.runtime import Bundle

OTHER = {"other": np.ones(3, np.float32)}


def is_other(path) -> bool:
    return len(Bundle.open(path).component().graphs) == 4 and (
        Bundle.open(path).manifest.files["onnx/model.onnx.data"].bytes > 4096
    )


def test_an_existing_output_is_refused_unless_forced(tmp_path):
    export(linear_model(), tmp_path / "out")
    with pytest.raises(UsageError, match="output exists") as refusal:
        export(linear_model(OTHER), tmp_path / "out")
    assert "--force" in refusal.value.hint
    assert not is_other(tmp_path / "out")
    export(linear_model(OTHER), tmp_path / "out", force=True)
    assert is_other(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_a_bundle_is_never_replaced(tmp_path):
    export(linear_model(), tmp_path / "bundle")
    (tmp_path / "link").symlink_to(tmp_path / "bundle")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("mine")
    (tmp_path / "liar").mkdir()
    (tmp_path / "liar/moe_export.json").write_text("{}")
    for name in ("link", "file", "folder", "liar"):
        with pytest.raises(UsageError, match="left alone"), staging(tmp_path / name, force=True):
            pass
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder/thesis.tex").read_text() == "mine"


def test_a_bundle_with_a_file_of_someone_else_is_never_replaced(tmp_path):
    export(linear_model(), tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"does not list 'notes\.txt'"):
        export(linear_model(OTHER), tmp_path / "out", force=True)
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def test_a_damaged_bundle_can_be_replaced(tmp_path):
    export(linear_model(), tmp_path / "out")
    (tmp_path / "out/onnx/model.onnx.data").write_bytes(b"")
    (tmp_path / "out/onnx/model.onnx").unlink()
    export(linear_model(OTHER), tmp_path / "out", force=True)
    assert is_other(tmp_path / "out")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_the_export_ends_early(tmp_path, monkeypatch, error):
    def seal_is_interrupted(*_, **__):
        raise error

    monkeypatch.setattr(toy, "seal", seal_is_interrupted)
    with pytest.raises(error):
        export(linear_model(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("renameat2", [True, False])
def test_an_interruption_of_the_exchange_waits_until_it_is_done(tmp_path, monkeypatch, renameat2):
    export(linear_model(), tmp_path / "out")
    rename, swap = os.rename, exchange._renameat2

    def interrupted_rename(*names):
        rename(*names)
        signal.raise_signal(signal.SIGINT)

    def interrupted_swap(*arguments):
        signal.raise_signal(signal.SIGINT)
        return renameat2 and swap(*arguments)

    monkeypatch.setattr(exchange.os, "rename", interrupted_rename)
    monkeypatch.setattr(exchange, "_renameat2", interrupted_swap)
    with pytest.raises(KeyboardInterrupt):
        export(linear_model(OTHER), tmp_path / "out", force=True)
    assert is_other(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_second_interruption_does_not_keep_the_folder_from_being_removed(tmp_path, monkeypatch):
    rmtree = staging_room.shutil.rmtree

    def interrupted(place, **words):
        signal.raise_signal(signal.SIGINT)
        rmtree(place, **words)

    monkeypatch.setattr(staging_room.shutil, "rmtree", interrupted)
    monkeypatch.setattr(toy, "seal", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        export(linear_model(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_handlers_of_signals_are_those_from_before_when_steps_are_done():
    heard = []

    def handler(number, frame):
        heard.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with undivided():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
        with ThreadPoolExecutor(1) as pool, undivided():
            pool.submit(undivided().__enter__).result()  # has nothing to do there
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path):
    with staging(tmp_path / "out", force=False) as place:
        bundle(linear_model(), place)
        (tmp_path / "out").mkdir()
        with pytest.raises(UsageError, match="exists"):
            publish(place, tmp_path / "out", force=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_that_appears_in_the_last_instant_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(staging_room, "check_replaceable", lambda *_, **__: False)
    for taken in ("file", "folder"):
        out = tmp_path / taken
        with staging(out, force=False) as place:
            bundle(linear_model(), place)
            out.write_text("mine") if taken == "file" else out.mkdir()
            with pytest.raises(UsageError, match="while the export ran"):
                publish(place, out, force=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_leftovers_of_dead_processes_are_swept_and_those_of_living_ones_are_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f".out.partial-{dead.pid}-0123abcd"
    alive = tmp_path / f".out.partial-{os.getppid()}-0123abcd"
    other = tmp_path / f".other.partial-{dead.pid}-0123abcd"
    lookalike = tmp_path / f".out.partial-{dead.pid}-mine"
    for folder in (stale, alive, other, lookalike):
        (folder / "onnx").mkdir(parents=True)
    with staging(tmp_path / "out", force=False):
        assert not stale.exists()
        assert alive.exists()
        assert other.exists()
        assert lookalike.exists()


def test_a_folder_whose_lock_is_held_is_not_swept_whatever_its_process_id(tmp_path):
    """A process of another container has an id that means nothing here."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    held = tmp_path / f".out.partial-{dead.pid}-0123abcd"
    held.mkdir()
    lock = staging_room._lock(held)
    with staging(tmp_path / "out", force=False):
        assert held.exists()
    os.close(lock)
    with staging(tmp_path / "out", force=False):
        assert not held.exists()


def test_two_exports_to_one_output_do_not_meet(tmp_path):
    with (
        staging(tmp_path / "out", force=False) as one,
        staging(tmp_path / "out", force=False) as two,
    ):
        bundle(linear_model(), one)
        bundle(linear_model(OTHER), two)
        publish(two, tmp_path / "out", force=False)
        with pytest.raises(UsageError):
            publish(one, tmp_path / "out", force=False)
    assert is_other(tmp_path / "out")


def test_missing_folders_above_the_output_are_made(tmp_path):
    export(linear_model(), tmp_path / "a/b/out")
    assert Bundle.open(tmp_path / "a/b/out").manifest.verdict == "passed"


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file/out", tmp_path / "file/deep/out"):
        with pytest.raises(UsageError), staging(output, force=False):
            pass


def test_a_forbidden_folder_is_a_usage_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(staging_room.Path, "mkdir", refuse)
    with pytest.raises(UsageError, match="cannot write here: Permission denied") as refusal:
        export(linear_model(), tmp_path / "out")
    assert refusal.value.where == str(tmp_path)


def test_a_full_disk_is_said_and_cleaned_up(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(MemoryBudgetError, match="disk is full"):
        export(linear_model(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_renameat2_a_bundle_is_published_and_replaced_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "_renameat2", lambda *_: False)
    export(linear_model(), tmp_path / "out")
    export(linear_model(OTHER), tmp_path / "out", force=True)
    assert is_other(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(FileExistsError):
        exchange.rename_new(tmp_path, tmp_path / "out")


def test_a_failed_exchange_puts_the_old_bundle_back(tmp_path, monkeypatch):
    export(linear_model(), tmp_path / "out")
    monkeypatch.setattr(exchange, "_renameat2", lambda *_: False)
    with pytest.raises(FileNotFoundError):
        exchange.rename_exchange(tmp_path / ".out.partial-1-0123abcd", tmp_path / "out")
    assert not is_other(tmp_path / "out")


def test_sealing_adds_reports_and_the_verdict_and_changes_nothing_else(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    before = bundle(linear_model(), place).manifest
    seal(place, reports={"parity.json": b"1", "html/parity.html": b"2"}, verdict="failed")
    after = Bundle.open(place).manifest
    assert after.verdict == "failed"
    assert after.files.keys() - before.files.keys() == {
        "reports/parity.json",
        "reports/html/parity.html",
    }
    assert all(after.files[path] == record for path, record in before.files.items())
    with pytest.raises(ValueError, match="segment"):
        seal(place, reports={"../x": b""}, verdict="failed")
