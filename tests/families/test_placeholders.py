"""A special token in an answer is embedded as the source embeds it, where there are no features."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from moe_export.errors import RewriteError
from moe_export.load.pretrained.assemble import kinds_of_tokens
from moe_export.load.pretrained.directory import seeing_loader
from moe_export.load.pretrained.embedding import Embed
from moe_export.load.pretrained.mended import mend
from moe_export.load.pretrained.placeholders import special_tokens, stand_ins
from moe_export.moe.families import FAMILIES
from pretrained_models import IDS, VOCABULARY, lively

from .configurations import VISION_MODELS

IMAGE, VIDEO, AUDIO = IDS["<|image_pad|>"], IDS["<|video_pad|>"], 264

# Those whose source embeds the places of features as the padding.
REPLACED = {
    "gemma4": {IMAGE: 0, VIDEO: 0},
    "kimi_k25": {IMAGE: 0, VIDEO: 0},
    "muse_spark": {IMAGE: 0, VIDEO: 0, AUDIO: 0},
}


def small(family):
    config = transformers.AutoConfig.for_model(family, **VISION_MODELS[family])
    model = lively(seeing_loader(type(config)).from_config(config))
    mend(model)
    return model


def text_of(model):
    special = [i for i in special_tokens(model.config) if 0 <= i < VOCABULARY]
    ids = torch.tensor([[5, *special, 7]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        **kinds_of_tokens(model, ids),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_part_embeds_what_the_source_embeds(family):
    model = small(family)
    given = text_of(model)
    others = stand_ins(model, given)
    assert others == REPLACED.get(family, {})
    table = model.get_input_embeddings()
    if not others:
        # The text model gets the table's rows, so nothing stands in for anything.
        return
    ids = given["input_ids"]
    expected = torch.tensor([others.get(i, i) for i in ids[0].tolist()])
    made = Embed(model, others).run(
        {"input_ids": ids, "image_embeds": torch.zeros(0, table.embedding_dim)}
    )
    with torch.no_grad():
        assert torch.equal(made["inputs_embeds"][0], table(expected))


def test_an_embedding_that_is_nowhere_in_the_table_is_refused():
    model = small("kimi_k25")
    given = text_of(model)
    inner = model.get_input_embeddings()
    forward = inner.forward
    inner.forward = lambda ids: forward(ids) + (ids.numel() > 1)
    with pytest.raises(RewriteError, match="as none that is known"):
        stand_ins(model, given)
