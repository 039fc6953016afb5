"""Of a model that holds several, one is exported, and the others are named with the reason."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

pytest.importorskip("transformers")

from moe_export.errors import UnsafeInputError
from moe_export.load.pretrained.directory import read_directory

from .catalogue import Case

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omni")
    return folder, Case("qwen3_omni_moe", "vision").save(folder)


def test_the_thinker_is_the_model_and_what_speaks_is_left_out(omni):
    folder, thinker = omni
    found = read_directory(folder)
    assert type(found.model) is type(thinker)
    expected = dict(thinker.named_parameters())
    assert {name for name, _ in found.model.named_parameters()} == set(expected)
    name = "model.language_model.layers.0.mlp.gate.weight"
    assert torch.equal(found.model.get_parameter(name) + 0, expected[name])
    assert set(found.left_out) == {"talker.*", "code2wav.*"}
    assert all(found.left_out.values())


def test_a_tensor_of_no_known_part_is_refused(omni, tmp_path):
    folder, _ = omni
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    safetensors.torch.save_file(
        {**tensors, "singer.weight": torch.ones(2)}, tmp_path / WEIGHTS, metadata={"format": "pt"}
    )
    with pytest.raises(UnsafeInputError, match=r"'singer\.weight' is in the checkpoint"):
        read_directory(tmp_path)
