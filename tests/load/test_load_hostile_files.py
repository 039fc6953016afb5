"""Files from strangers: none runs code or reads outside its bounds, each is named and refused."""

import contextlib
import copy
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_export import MoeExportError, UnsafeInputError, UnsupportedError, UsageError
from moe_export.load import isolated, load
from moe_export.load.archive import open_archive
from moe_export.load.child import parse_answer
from moe_export.load.reader import checkpoint_from, read_file
from moe_export.spec import export_spec


class Runs:
    """Pickles to a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def content_of(path):
    return torch.load(path, weights_only=True)


def zip_of(path, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(f"archive/{name}", data)
    return path


def test_a_pickled_command_is_named_and_not_run(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "model.pt"
    torch.save({"format": "moe-export checkpoint", "x": Runs(os.system, f"touch {canary}")}, path)
    with pytest.raises(UnsafeInputError, match=r"posix\.system") as refusal:
        load(export_spec(path))
    assert str(path) in str(refusal.value)
    assert not canary.exists()


def test_the_isolated_reader_is_stopped_when_it_wants_too_much_memory(tmp_path):
    # Zeroed pages cost nothing until touched: without the limit of 4 GiB this would succeed.
    path = tmp_path / "model.pt"
    torch.save({"format": "moe-export checkpoint", "x": Runs(bytearray, 6 << 30)}, path)
    with pytest.raises(UnsafeInputError, match="MemoryError"):
        load(export_spec(path))


def test_the_isolated_reader_sees_neither_the_environment_nor_the_path(saved, monkeypatch):
    # PYTHONPATH with a torch of somebody's own must not reach the reader.
    _, path = saved("plain")
    fake = path.parent / "fake"
    fake.mkdir()
    canary = path.parent / "canary"
    (fake / "torch.py").write_text(f"open({str(canary)!r}, 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(fake))
    monkeypatch.chdir(fake)
    load(export_spec(path))
    assert not canary.exists()


def test_an_answer_past_the_readers_limit_is_not_taken(tmp_path):
    # 65 MiB of text is more than the child may write, whatever the file says.
    path = tmp_path / "model.pt"
    torch.save({"format": "x", "config": {"a": "x" * (65 << 20)}}, path)
    with pytest.raises(UnsafeInputError, match="OSError"):
        load(export_spec(path))


def test_the_isolated_reader_imports_nothing_of_this_project():
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('isolated', {isolated.__file__!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "assert not [name for name in sys.modules if name.startswith(('moe_export', 'torch'))]\n"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickled_module_is_refused_with_the_way_out(tmp_path, in_process, loadable, protocol):
    path = tmp_path / "model.pt"
    torch.save(loadable.plain(width=8), path, pickle_protocol=protocol)
    with pytest.raises(UnsafeInputError, match=r"loadable\.Plain") as refusal:
        load(export_spec(path))
    assert "save_checkpoint" in refusal.value.hint
    assert "--trust-pickle" in refusal.value.hint


def test_a_file_of_the_old_format_is_refused_unread(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "model.pt"
    torch.save(Runs(os.system, f"touch {canary}"), path, _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeInputError, match=r"older than 1\.6"):
        load(export_spec(path))
    assert not canary.exists()


def test_a_truncated_file_is_refused_wherever_it_ends(saved):
    _, path = saved("tied")
    whole = path.read_bytes()
    cuts = {0, 1, 4, 30, len(whole) - 1, len(whole) - 22, len(whole) - 23}
    cuts |= {random.Random(7).randrange(len(whole)) for _ in range(60)}
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(UnsafeInputError, match="not a whole zip archive"):
            load(export_spec(path))


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(saved, in_process, flippable, place, mask):
    path, whole, fingerprint = flippable
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= mask
    path.write_bytes(damaged)
    outcome = loaded_or_error(path)
    if isinstance(outcome, MoeExportError):
        assert outcome.exit_code in (2, 3, 7)
        assert str(path) in str(outcome)
    else:
        assert outcome.source.fingerprint == fingerprint


def loaded_or_error(path):
    try:
        return load(export_spec(path))
    except MoeExportError as error:
        return error


@pytest.fixture
def flippable(saved, in_process):
    _, path = saved("tied", assets={"tokenizer.json": "{}"})
    return path, path.read_bytes(), load(export_spec(path)).source.fingerprint


def test_damage_inside_a_weight_is_noticed(saved, in_process):
    model, path = saved("plain")
    whole = bytearray(path.read_bytes())
    at = whole.find(model.proj.weight.detach().numpy().tobytes())
    assert at > 0
    whole[at + 100] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UnsafeInputError, match="fails its checksum"):
        load(export_spec(path))


def test_a_compressed_record_is_refused_before_it_is_unpacked(tmp_path):
    # 200 MiB of zeros in 200 KiB.
    path = zip_of(
        tmp_path / "model.pt", {"data.pkl": bytes(200 << 20)}, compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(UnsafeInputError, match="compressed"):
        load(export_spec(path))


def test_records_that_share_their_bytes_are_refused(saved):
    _, path = saved("tied")
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        names = {info.filename: info.header_offset for info in archive.infolist()}
    # In the directory at the end, let data/1 begin where data/0 does.
    entry = whole.rfind(b"PK\x01\x02", 0, whole.rfind(b"archive/data/1"))
    struct.pack_into("<I", whole, entry + 42, names["archive/data/0"])
    path.write_bytes(whole)
    with pytest.raises(UnsafeInputError):
        load(export_spec(path))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"word/document.xml": b"<x/>"}, "torch.save did not write"),
        ({"data.pkl": b"\x80\x02}.", "byteorder": b"big"}, "little-endian"),
        ({"data.pkl": b"\x80\x02}.", "../data.pkl": b""}, "checkpoint|weights|name"),
    ],
)
def test_other_archives_are_refused(tmp_path, in_process, records, message):
    path = zip_of(tmp_path / "model.pt", records)
    with pytest.raises((UnsafeInputError, UsageError), match=message):
        load(export_spec(path))


def test_a_graph_archive_is_not_taken_for_a_module(tmp_path):
    path = zip_of(tmp_path / "model.pt", {"data.pkl": b"\x80\x02}.", "constants.pkl": b""})
    with pytest.raises(UnsupportedError, match="TorchScript"):
        load(export_spec(path))


def test_weights_without_code_are_told_apart(tmp_path, in_process, loadable):
    path = tmp_path / "model.pt"
    for content in (loadable.plain(width=8).state_dict(), {"epoch": 3}, torch.ones(3), [1]):
        torch.save(content, path)
        with pytest.raises(UsageError, match="weights without the code"):
            load(export_spec(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "somebody's checkpoint"}, "its format is"),
        ({"version": 2}, "version '2'"),
        ({"version": True}, "version 'True'"),
        ({"version": None}, "version 'None'"),
        ({"more": 1}, "its entries"),
        ({"factory": ["loadable:plain"]}, "its factory is a list"),
        ({"factory": "os:system"}, "not a top-level function marked"),
        ({"factory": "x" * 300}, "not of the form"),
        ({"config": [1]}, "its config is a list"),
        ({"config": {"width": (8,)}}, "a tuple where JSON"),
        ({"config": {8: 8}}, "a dict where JSON"),
        ({"config": {"width": float("nan")}}, "NaN is not a JSON number"),
        ({"config": {"width": 10**700}}, "pickled Python objects"),
        ({"config": {"width": torch.ones(1)}}, "its entries are not those"),
        ({"dynamic_shapes": {"x": {"0x": "batch"}}}, "'0x' is not an axis"),
        ({"dynamic_shapes": {"x": 3}}, "dynamic shapes"),
        ({"state_dict": {}}, "missing proj.weight"),
        ({"state_dict": {"proj.weight": 3}}, "its entries|not a mapping"),
        ({"state_dict": [torch.ones(1)]}, "a Tensor where JSON"),
        ({"state_dict": {0: torch.ones(1)}}, "named by int"),
        ({"state_dict": {"a": torch.ones(2).to_sparse()}}, "not a plain strided tensor"),
        ({"state_dict": {"a": torch.ones(1, dtype=torch.complex64)}}, "dtype 'complex64'"),
        ({"state_dict": {"a": torch.ones(4)[1:3]}}, "view into something larger"),
        ({"state_dict": {"a": torch.ones(4, 3).t()}}, "view into something larger"),
        ({"state_dict": {"a": torch.ones(1).expand(1 << 20)}}, "view into something larger"),
        ({"state_dict": {"a": torch.ones(4)[:3]}}, "needs 12 bytes"),
        ({"state_dict": {"a": torch.empty(0, 1 << 45)}}, "absurd size"),
        ({"state_dict": {"a": torch.tensor([7], dtype=torch.uint8).view(torch.bool)}}, "booleans"),
        ({"assets": {"../../etc/passwd": torch.ones(3).byte()}}, "an asset has the file name"),
        ({"assets": {"a.json": torch.ones(3)}}, "not a row of bytes"),
        ({"example_inputs": {}}, "input 'x' is missing"),
    ],
)
def test_a_checkpoint_with_one_wrong_entry_is_refused(saved, in_process, change, message):
    _, path = saved("plain")
    torch.save(content_of(path) | change, path)
    with pytest.raises(MoeExportError, match=message) as refusal:
        load(export_spec(path))
    assert refusal.value.exit_code in (2, 7)


def test_nested_references_do_not_grow_without_bound(saved, in_process):
    _, path = saved("plain")
    laugh = ["ha"]
    for _ in range(40):
        laugh = [laugh, laugh]
    torch.save(content_of(path) | {"config": {"width": laugh}}, path)
    with pytest.raises(UnsafeInputError, match="too large or too deeply nested"):
        load(export_spec(path))


def answer_of(path):
    with open_archive(path) as archive:
        return json.loads(json.dumps(isolated.describe(archive.file)))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("offset", -64, "where no tensor is stored"),
        ("offset", 1 << 62, "where no tensor is stored"),
        ("offset", 10**400, "where no tensor is stored"),
        ("offset", 0.0, "where no tensor is stored"),
        ("offset", None, "where no tensor is stored"),
        ("offset", [0], "where no tensor is stored"),
        ("shape", [8, 9], "needs 288 bytes|view"),
        ("shape", [1 << 40, 1 << 40], "absurd shape"),
        ("shape", [-8, -8], "absurd size"),
        ("shape", [8.0, 8.0], "absurd size"),
        ("shape", [True, 64], "absurd size"),
        ("shape", "88", "no shape"),
        ("shape", [1] * 100, "no shape"),
        ("stride", [8], "view"),
        ("stride", [0, 0], "view"),
        ("stride", [-8, 1], "view"),
        ("stride", None, "view"),
        ("storage_offset", 1, "view"),
        ("storage_offset", -1, "view"),
        ("nbytes", 1 << 40, "needs 256 bytes"),
        ("dtype", "float64", "needs 512 bytes"),
        ("dtype", "object", "dtype"),
        ("dtype", ["float32"], "dtype"),
    ],
)
def test_a_tensor_that_is_not_exactly_one_record_is_refused(saved, key, value, message):
    _, path = saved("plain")
    answer = answer_of(path)
    answer["tensors"]["state_dict"]["proj.weight"][key] = value
    with (
        open_archive(path) as archive,
        pytest.raises(UnsafeInputError, match=message),
    ):
        checkpoint_from(answer, archive)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_answer_of_a_captured_reader_maps_bytes_that_are_no_record(described, data):
    path, answer = described
    answer = copy.deepcopy(answer)
    *way, last = data.draw(st.sampled_from(list(ways(answer))))
    parent = answer
    for key in way:
        parent = parent[key]
    parent[last] = data.draw(JSON)
    with open_archive(path) as archive:
        try:
            checkpoint = checkpoint_from(answer, archive)
        except UnsafeInputError:
            return
        sizes = {record.size for record in archive.records.values()}
    for item in checkpoint.state.values():
        assert item.tensor.numel() == 0 or item.tensor.numel() * item.tensor.itemsize in sizes


@pytest.fixture
def described(saved):
    _, path = saved("tied", assets={"tokenizer.json": "{}"})
    return path, answer_of(path)


def ways(value, way=()):
    """The path to every node of a JSON value but the root."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield (*way, key)
        yield from ways(inner, (*way, key))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"NaN", b"\xff", b"[" * 100_000, b'{"a": NaN}'])
def test_an_answer_that_is_no_object_is_refused(text):
    with pytest.raises(UnsafeInputError):
        parse_answer(text, Path("model.pt"))


def test_any_pickle_is_described_or_refused(tmp_path, in_process):
    # Opcode soup behind a good directory and a good checksum.
    source = random.Random(11)
    good = pickle.dumps({"format": "x", "version": 1, "config": {"a": [1, 2.0, "b"]}}, protocol=2)
    path = tmp_path / "model.pt"
    for _ in range(200):
        soup = bytearray(good)
        for _ in range(source.randrange(1, 6)):
            soup[source.randrange(len(soup))] = source.randrange(256)
        zip_of(path, {"data.pkl": bytes(soup), "version": b"3\n", "byteorder": b"little"})
        with contextlib.suppress(UnsafeInputError):
            read_file(path)
