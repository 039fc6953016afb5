"""What rows of an MoE layer are of, as the model itself shows it, and when nobody knows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moe_export.capture.modality import modality_of_case, modality_of_layer
from moe_export.forms import ANY, IMAGE, TEXT, MarkedModel
from moe_export.load import load
from moe_export.rewrite import rewrite
from moe_export.spec import export_spec

HIDDEN, WORDS, PATCHES, LENGTH, BATCH = 8, 11, 3, 4, 2
ASSETS = {
    "generation_config.json": json.dumps({"text_input": "tokens"}).encode(),
    "preprocessor_config.json": json.dumps({"image_input": "image"}).encode(),
}
INPUTS = {
    "image": torch.rand(BATCH, PATCHES, HIDDEN, generator=torch.Generator().manual_seed(1)),
    "tokens": torch.tensor([[1, 2, 3, 4], [4, 3, 9, 1]]),
}


class SparseMoE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, 4, bias=False)
        self.experts = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        weights, ids = self.gate(rows).softmax(-1).topk(2)
        y = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, choice = torch.where(ids == number)
            y.index_add_(0, row, expert(rows[row]) * weights[row, choice, None])
        return y.view_as(x)


class Sees(nn.Module):
    """An image and a text in one sequence, which attention mixes before the experts."""

    def __init__(self, order: str, *, causal: bool) -> None:
        super().__init__()
        self.order, self.causal = order, causal
        self.embed = nn.Embedding(WORDS, HIDDEN)
        self.moe = SparseMoE()

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        text = self.embed(tokens)
        if self.order == "sum":
            return self.moe(text + image.mean(1, keepdim=True))
        parts = [image, text] if self.order == "image first" else [text, image]
        x = torch.cat(parts, dim=1)
        mixed = nn.functional.scaled_dot_product_attention(x, x, x, is_causal=self.causal)
        return self.moe(x + mixed)


def marked(order: str, *, causal: bool = True, assets: dict[str, bytes] = ASSETS) -> MarkedModel:
    torch.manual_seed(0)
    model = Sees(order, causal=causal).eval()
    made = rewrite(load(export_spec(model, example_inputs=tuple(INPUTS.values()))))
    assert [block.status for block in made.blocks] == ["proven"]
    return replace(made, loaded=replace(made.loaded, assets=assets))


IMAGE_ROWS, TEXT_ROWS = [IMAGE] * PATCHES, [TEXT] * LENGTH


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("image first", IMAGE_ROWS + TEXT_ROWS),
        ("text first", TEXT_ROWS + IMAGE_ROWS),
        ("sum", TEXT_ROWS),
    ],
)
def test_a_causal_model_shows_which_rows_stand_for_its_text(
    order: str, expected: list[int]
) -> None:
    model = marked(order)
    codes = modality_of_case(model, INPUTS, None)
    assert codes.tolist() == [expected] * BATCH
    of_layer = modality_of_layer(model, "moe", codes, BATCH * len(expected))
    assert of_layer.tolist() == expected * BATCH


@pytest.mark.parametrize("order", ["image first", "text first"])
def test_nobody_knows_where_every_row_sees_every_other(order: str) -> None:
    model = marked(order, causal=False)
    codes = modality_of_case(model, INPUTS, None)
    assert codes.size == 0
    assert set(modality_of_layer(model, "moe", codes, 14).tolist()) == {ANY}


def test_one_token_among_rows_that_all_move_shows_no_order() -> None:
    model = marked("text first", causal=False)
    alone = {"image": INPUTS["image"], "tokens": INPUTS["tokens"][:, :1]}
    assert modality_of_case(model, alone, None).size == 0


def test_nobody_knows_which_input_is_text_where_no_asset_says_it() -> None:
    assert modality_of_case(marked("image first", assets={}), INPUTS, None).size == 0


def test_rows_of_an_input_that_nobody_calls_an_image_are_any() -> None:
    only_text = {"generation_config.json": ASSETS["generation_config.json"]}
    codes = modality_of_case(marked("image first", assets=only_text), INPUTS, None)
    assert codes.tolist() == [[ANY] * PATCHES + TEXT_ROWS] * BATCH


def test_what_a_source_says_is_not_asked_again() -> None:
    said = np.array([[IMAGE, TEXT]], np.uint8)
    assert modality_of_case(marked("sum"), INPUTS, said) is said


def test_a_layer_for_one_modality_has_rows_of_that_alone() -> None:
    model = marked("sum")
    block = model.loaded.module.get_submodule("moe")
    block.__dict__["modality"] = "image"
    assert modality_of_layer(model, "moe", np.zeros((0, 0), np.uint8), 3).tolist() == [IMAGE] * 3
