"""What ``save_checkpoint`` wrote comes back as it was, without being read before it is used."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import moe_export
from moe_export.load import load
from moe_export.spec import export_spec

pytestmark = pytest.mark.usefixtures("in_process")

NAMES = ["plain", "tied", "non_persistent", "attribute", "needs_values"]


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_computes_what_the_saved_one_did(saved, name):
    model, path = saved(name)
    loaded = load(export_spec(path))
    expected = model(*loaded.example_inputs.values())
    assert torch.equal(loaded.module(**loaded.example_inputs), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_is_in_eval_mode_and_frozen(saved, name):
    module = load(export_spec(saved(name)[1])).module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_every_tensor_keeps_its_dtype_shape_and_bytes(saved):
    model, path = saved("tied")
    state = load(export_spec(path)).module.state_dict()
    assert list(state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)


def test_tied_parameters_stay_one_parameter(saved):
    module = load(export_spec(saved("tied")[1])).module
    assert module.head.weight is module.embed.weight
    assert len(list(module.parameters())) == 1


def test_a_tied_parameter_is_stored_once(saved, loadable):
    tied_size = saved("tied")[1].stat().st_size
    untied_size = saved("untied")[1].stat().st_size
    assert untied_size - tied_size >= 10 * 8 * 4


def test_a_view_is_stored_without_the_rest_of_its_storage(saved, loadable, tmp_path):
    model = loadable.plain(width=8)
    model.proj.weight = torch.nn.Parameter(torch.randn(1000, 1000)[:8, :8])
    path = tmp_path / "view.pt"
    moe_export.save_checkpoint(
        model,
        path,
        factory="loadable:plain",
        config={"width": 8},
        example_inputs=(torch.ones(1, 8),),
    )
    assert path.stat().st_size < 10_000
    assert torch.equal(load(export_spec(path)).module.proj.weight, model.proj.weight)


def test_inputs_axes_and_assets_come_back(saved):
    _, path = saved(
        "tied",
        example_inputs={"bias": torch.ones(10), "ids": torch.zeros(2, 3, dtype=torch.int64)},
        dynamic_shapes={"ids": {0: "batch", 1: "sequence"}},
        assets={"tokenizer.json": '{"é": 1}', "chat/template.jinja": b"\x00\xff", "empty": ""},
    )
    loaded = load(export_spec(path))
    # In the order of forward, whatever the order they were given in.
    assert list(loaded.example_inputs) == ["ids", "bias"]
    assert loaded.dynamic_shapes == {"ids": {0: "batch", 1: "sequence"}}
    assert loaded.assets == {
        "tokenizer.json": '{"é": 1}'.encode(),
        "chat/template.jinja": b"\x00\xff",
        "empty": b"",
    }
    assert loaded.source.description == "model.pt"


def test_the_users_own_inputs_and_axes_win(saved):
    _, path = saved("plain", dynamic_shapes={"x": {0: "batch"}})
    mine = torch.ones(5, 8)
    loaded = load(export_spec(path, example_inputs=(mine,), dynamic_shapes={"x": {0: "rows"}}))
    assert torch.equal(loaded.example_inputs["x"], mine)
    assert loaded.dynamic_shapes == {"x": {0: "rows"}}


def test_the_same_model_makes_the_same_bytes(saved):
    first = saved("tied")[1].read_bytes()
    assert saved("tied")[1].read_bytes() == first


def test_the_fingerprint_does_not_depend_on_how_a_model_was_loaded(saved, loadable):
    for name in NAMES:
        model, path = saved(name)
        inputs = load(export_spec(path)).example_inputs
        as_module = load(export_spec(model, example_inputs=dict(inputs)))
        assert as_module.source.fingerprint == load(export_spec(path)).source.fingerprint


def test_the_fingerprint_changes_with_one_bit_of_one_weight(saved):
    model, path = saved("plain")
    before = load(export_spec(path)).source.fingerprint
    with torch.no_grad():
        model.proj.bias.view(torch.int32)[3] ^= 1
    after = load(export_spec(model, example_inputs=(torch.ones(1, 8),))).source.fingerprint
    assert before != after


def test_a_tensor_written_to_after_loading_is_hashed_as_it_is_now(write_module, tmp_path):
    # A state-dict hook may change what it is given; the fingerprint is of what runs.
    folder = write_module("""
        import torch
        from moe_export import model_factory

        class Doubled(torch.nn.Linear):
            def __init__(self):
                super().__init__(4, 4)
                self.register_load_state_dict_post_hook(self.double)

            @staticmethod
            def double(module, keys):
                with torch.no_grad():
                    module.weight.mul_(2)

        @model_factory
        def make():
            return Doubled()
    """)
    sys.path.insert(0, str(folder))
    import written

    model = written.make()
    path = moe_export.save_checkpoint(
        model,
        tmp_path / "m.pt",
        factory="written:make",
        config={},
        example_inputs=(torch.ones(1, 4),),
    )
    loaded = load(export_spec(path))
    assert torch.equal(loaded.module.weight, 2 * model.weight)
    again = load(export_spec(loaded.module, example_inputs=(torch.ones(1, 4),)))
    assert again.source.fingerprint == loaded.source.fingerprint


def test_weights_are_mapped_from_the_file_and_not_read(loadable, tmp_path):
    width = 2048  # a weight of 16 MiB
    path = moe_export.save_checkpoint(
        loadable.plain(width=width),
        tmp_path / "wide.pt",
        factory="loadable:plain",
        config={"width": width},
        example_inputs=(torch.ones(1, width),),
    )
    loaded = load(export_spec(path))
    resident, address = _resident(path)
    assert address[0] <= loaded.module.proj.weight.data_ptr() < address[1]
    # The kernel may read ahead of the few pages that were touched: 2 MiB is its largest step.
    assert resident <= 2 << 20
    loaded.module.proj.weight.sum()
    assert _resident(path)[0] > 15 << 20


def _resident(path: Path) -> tuple[int, tuple[int, int]]:
    """Bytes of the mapping of ``path`` that are in memory, and its addresses."""
    header = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .* " + re.escape(str(path)) + "$")
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if match := header.match(line):
            resident = next(line for line in lines if line.startswith("Rss:"))
            start, stop = (int(text, 16) for text in match.groups())
            return int(resident.split()[1]) * 1024, (start, stop)
    raise AssertionError(f"{path} is not mapped")


def test_writing_to_a_loaded_weight_leaves_the_file_alone(saved):
    _, path = saved("plain")
    before = path.read_bytes()
    load(export_spec(path)).module.proj.weight.data.fill_(7.0)
    assert path.read_bytes() == before


def test_the_model_that_is_saved_is_left_as_it_was(loadable, tmp_path):
    model = loadable.plain(width=8).train()
    moe_export.save_checkpoint(
        model,
        tmp_path / "m.pt",
        factory="loadable:plain",
        config={"width": 8},
        example_inputs=(torch.ones(1, 8),),
    )
    assert model.training
    assert model.proj.weight.requires_grad


def test_a_failing_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    _, path = saved("plain")
    before = path.read_bytes()

    def fail(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(moe_export.UsageError, match="No space left"):
        saved("plain")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_checksums_are_written_even_where_the_process_switched_them_off(saved):
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        _, path = saved("plain")
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    load(export_spec(path))


def test_pytorch_reads_a_checkpoint_with_weights_only(saved):
    _, path = saved("plain")
    content = torch.load(path, weights_only=True)
    assert content["format"] == "moe-export checkpoint"
    assert content["config"] == {"width": 8}


def test_pytorch_still_says_where_a_storage_lies(saved):
    # The isolated reader lives on this private attribute.  If it goes, load must be rewritten.
    from torch._subclasses.fake_tensor import FakeTensorMode

    _, path = saved("plain")
    weight = torch.load(path, weights_only=True)["state_dict"]["proj.weight"]
    with FakeTensorMode():
        fake = torch.load(path, weights_only=True, map_location="meta")
    meta = torch.load(path, weights_only=True, map_location="meta")
    for content in (fake, meta):
        storage = content["state_dict"]["proj.weight"].untyped_storage()
        assert hasattr(storage, "_checkpoint_offset")
        offset = storage._checkpoint_offset
        assert path.read_bytes()[offset : offset + 8 * 8 * 4] == weight.numpy().tobytes()


def test_a_fresh_process_loads_with_a_python_path(saved, tmp_path):
    _, path = saved("tied")
    program = (
        "import sys; from moe_export.load import load; from moe_export.spec import export_spec\n"
        "print(load(export_spec(sys.argv[1], python_path=sys.argv[2:])).source.fingerprint)"
    )
    folder = Path(__file__).parent / "factories"
    command = [sys.executable, "-c", program, str(path), str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == load(export_spec(path)).source.fingerprint
