"""A large block is proven on a narrow one of the same code, and once for all that are alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from moe_export.load import load
from moe_export.load.pretrained import NarrowBlocks, read_directory
from moe_export.load.pretrained.parts import Decoder
from moe_export.rewrite import rewrite
from moe_export.rewrite.alike import alike, reads_all, widened
from moe_export.rewrite.recognise import Recognition, recognise
from moe_export.spec import export_spec
from pretrained_models import save_qwen3_vl_moe

PATH = "model.language_model.layers.0.mlp"
ROWS = 800
"""Of an expert: with eight of them a block has more than a million numbers."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("large")
    save_qwen3_vl_moe(made, moe_intermediate_size=ROWS)
    return made


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Decoder:
    return Decoder(read_directory(folder).model)


@pytest.fixture(scope="module")
def narrow(folder: Path, decoder: Decoder) -> nn.Module:
    found = NarrowBlocks(read_directory(folder).model, decoder)(PATH)
    assert found is not None
    return found


def test_a_narrow_block_differs_in_the_rows_of_its_experts_alone(
    decoder: Decoder, narrow: nn.Module
) -> None:
    block = decoder.get_submodule(PATH)
    sizes = {name: tuple(p.shape) for name, p in narrow.named_parameters()}
    rows = sizes["experts.down_proj"][-1]
    assert rows < 100
    wide = {
        name: tuple(
            ROWS if size == rows else 2 * ROWS if size == 2 * rows else size for size in shape
        )
        for name, shape in sizes.items()
    }
    assert wide == {name: tuple(p.shape) for name, p in block.named_parameters()}


def test_what_is_found_of_it_holds_for_the_block(decoder: Decoder, narrow: nn.Module) -> None:
    found = recognise(narrow, torch.randn(2, 5, 64))
    assert isinstance(found, Recognition)
    block = decoder.get_submodule(PATH)
    proposal = widened(found.proposal, narrow, block)
    assert proposal is not None
    assert proposal.layer.experts.intermediate_size == ROWS
    assert proposal.weights["up"].shape == (8, 2 * ROWS, 64)
    assert reads_all(proposal, block)


def test_a_proposal_does_not_hold_for_a_block_of_other_tensors(narrow: nn.Module) -> None:
    found = recognise(narrow, torch.randn(2, 5, 64))
    assert isinstance(found, Recognition)
    assert widened(found.proposal, narrow, nn.Sequential(nn.Linear(64, 64))) is None
    narrow_and_more = nn.Sequential(narrow)
    assert not reads_all(found.proposal, narrow_and_more)


def test_blocks_of_one_code_are_alike_until_an_attribute_differs(decoder: Decoder) -> None:
    one, other = (decoder.get_submodule(PATH.replace("0", number)) for number in "01")
    assert alike(one, other)
    assert not alike(one, decoder.get_submodule("model.language_model.layers.0.self_attn"))
    before = other.gate.top_k
    other.gate.top_k = before + 1
    assert not alike(one, other)
    other.gate.top_k = before


def test_the_record_says_what_was_run(folder: Path) -> None:
    marked = rewrite(load(export_spec(folder, output=folder / "out")))
    first, second = (block.proof for block in marked.proven)
    assert first is not None
    assert second is not None
    assert (first.shown_on, second.shown_on) == (None, PATH)
    assert first.intermediate_size is not None
    assert first.intermediate_size < 100
    assert {block.layer.experts.intermediate_size for block in marked.proven if block.layer} == {
        ROWS
    }


def test_a_small_block_is_its_own_proof(decoder: Decoder, folder: Path, tmp_path: Path) -> None:
    save_qwen3_vl_moe(tmp_path)
    model = read_directory(tmp_path).model
    assert NarrowBlocks(model, Decoder(model))(PATH) is None
