"""The keys that an index keeps: how many, which of equals, and for texts of every length."""

from __future__ import annotations

import copy
import threading
from itertools import islice

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import moe_export
from moe_export.capture.choices import Kept
from moe_export.capture.golden import record
from moe_export.capture.look import look_at
from moe_export.capture.watch import Rounding
from moe_export.forms import CHOICES
from moe_export.load import load
from moe_export.load.pretrained import indexed
from moe_export.load.pretrained.cache import carried
from moe_export.load.pretrained.indexed import _indices, indexers_of, keep_by_count, kept
from moe_export.load.pretrained.parts import Decoder
from moe_export.rewrite import rewrite
from moe_export.runtime import Session
from moe_export.runtime.cache import Cache
from moe_export.runtime.greedy import greedy, no_features
from moe_export.runtime.positions import plain_positions
from moe_export.spec import export_spec

from .catalogue import Case
from .configurations import VISION_MODELS

NOWHERE = float("-inf")


def picked(scores, count):
    return [row.nonzero().flatten().tolist() for row in kept(torch.tensor(scores), count)]


def test_the_best_are_kept():
    assert picked([[0.5, 3.0, 1.0, 2.0], [4.0, 1.0, 3.0, 2.0]], 2) == [[1, 3], [0, 2]]


def test_of_equal_scores_the_first_are_kept():
    assert picked([[1.0, 0.0, 0.0, 2.0, 0.0]], 4) == [[0, 1, 2, 3]]
    assert picked([[0.0] * 40], 3) == [[0, 1, 2]]


@pytest.mark.parametrize("count", [4, 5, 300])
def test_all_are_kept_where_there_are_no_more(count):
    assert picked([[1.0, NOWHERE, 0.0, 2.0]], count) == [[0, 1, 2, 3]]


def test_what_is_nowhere_is_kept_behind_all_else():
    assert picked([[NOWHERE, 1.0, NOWHERE, 0.0]], 2) == [[1, 3]]


def test_as_indices_they_are_scattered_to_the_same_mask():
    keeps = torch.tensor([[False, True, False, True], [True, False, False, False]])
    made = torch.zeros(2, 4, dtype=torch.bool).scatter(-1, _indices(keeps), True)
    assert torch.equal(made, keeps)


def test_it_is_what_topk_gives():
    scores = torch.randn(3, 5, 50, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros_like(scores, dtype=torch.bool)
    expected.scatter_(-1, scores.topk(7, dim=-1).indices, True)
    assert torch.equal(kept(scores, 7), expected)


def test_a_run_that_is_told_keeps_what_the_other_kept():
    """In float64 the two scores would change places."""
    narrow, wide = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0 + 1e-12]]).double()
    choices = Kept()
    with choices.recorded():
        first = kept(narrow, 1)
    assert not torch.equal(kept(torch.tensor([[1.0, 1.5]]), 1), first)
    with choices.replayed():
        assert torch.equal(kept(wide, 1), first)
    assert CHOICES.settle is None


def text_model(family, changes=None, folder=None):
    kind = "vision" if family in VISION_MODELS else "text"
    return Case(family, kind).save(folder, changes)


def decoder_of(family, folder, changes=None):
    return Decoder(text_model(family, changes, folder), all_logits=True).eval()


def run(decoder, embeds, mask):
    cache = decoder.empty_cache(embeds)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return decoder.run(
        {"inputs_embeds": embeds, "position_ids": positions, "attention_mask": mask, **cache}
    )["logits"]


@pytest.mark.parametrize("family", ["deepseek_v32", "minimax_m3_vl", "glm5_next"])
def test_padding_on_the_left_changes_nothing(family, tmp_path):
    decoder = decoder_of(family, tmp_path)
    embeds = torch.randn(1, 21, 64, generator=torch.Generator().manual_seed(2))
    expected = run(decoder, embeds, torch.ones(1, 21, dtype=torch.int64))
    for padding in (1, 3, 6):
        longer = torch.cat([torch.ones(1, padding, 64), embeds], dim=1)
        mask = torch.cat([torch.zeros(1, padding), torch.ones(1, 21)], dim=1).long()
        made = run(decoder, longer, mask)[:, padding:]
        # Sums of more terms, most of which are zero.
        assert (made - expected).abs().max() <= 1e-4 * expected.abs().max(), padding


@pytest.mark.parametrize("family", ["deepseek_v32", "minimax_m3_vl", "glm5_next"])
def test_an_index_that_keeps_another_key_is_another_model(family, tmp_path):
    """Or no test of an index would show anything."""
    decoder = decoder_of(family, tmp_path)
    embeds = torch.randn(1, 21, 64, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(1, 21, dtype=torch.int64)
    expected = run(decoder, embeds, mask)
    name = "topk_blocks" if family == "minimax_m3_vl" else "index_topk"
    for indexer in indexers_of(decoder):
        vars(indexer)[name] -= vars(indexer).get("index_kpool", 1)
    made = run(decoder, embeds, mask)
    assert (made - expected).abs().max() > 1e-2 * expected.abs().max()


def test_sizes_stay_as_the_source_has_them(tmp_path):
    model = text_model("minimax_m3_vl", folder=tmp_path)
    before = [dict(vars(indexer)) for indexer in indexers_of(model)]
    twin = copy.deepcopy(model)
    for _ in range(2):  # a second time leaves all as it is
        keep_by_count(twin)
    assert [vars(i)["block_size"] for i in indexers_of(twin)] == [i["block_size"] for i in before]
    assert [i.block_size for i in indexers_of(twin)] == [1]


def test_an_index_has_keys_of_its_own_and_a_layer_without_one_has_none(tmp_path):
    decoder = decoder_of("glm_moe_dsa", tmp_path)
    assert carried(decoder.kinds) == [
        *((0, what) for what in ("key", "value", "index")),
        *((1, what) for what in ("key", "value")),
    ]


def test_an_index_may_keep_more_keys_than_there_are(tmp_path):
    """As with a short text and the thousands that a trained model keeps."""
    model = text_model("deepseek_v32", {"index_topk": 2048}, tmp_path / "model")
    model.generation_config.eos_token_id = None
    moe_export.export(tmp_path / "model", output=tmp_path / "bundle", target="standard")
    ids = torch.tensor([[5, 9, 33, 120, 7]])
    told = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, 5:].tolist()
    embed, decoder = (Session(tmp_path / "bundle", component=n) for n in ("embed", "decoder"))
    steps = greedy(
        embed,
        Cache(decoder),
        ids=ids.numpy(),
        features=no_features(embed),
        positions=plain_positions(0, 5),
    )
    assert [token for token, _ in islice(steps, 8)] == told
    past = next(info for info in decoder.inputs if info.name == "past_index_0")
    assert past.shape == ("past", "batch", 1, 32)
    assert np.dtype(past.dtype) == np.float32


def test_a_reference_attends_to_the_keys_that_eager_kept(tmp_path, monkeypatch):
    """Every later run would keep others, as one may whose scores are nearly equal."""
    text_model("deepseek_v32", folder=tmp_path)
    (decoder,) = (part for part in rewrite(load(export_spec(tmp_path))).parts if part.layers)
    names = look_at(decoder).names
    runs: list[int] = []

    def best_of_the_first_run_and_worst_of_others(scores, count):
        runs.append(threading.get_ident())
        is_first = runs[-1] == runs[0]
        best = scores if is_first else torch.where(scores == NOWHERE, scores, -scores)
        order = best.topk(min(count, best.shape[-1]), dim=-1).indices
        mask = torch.zeros_like(best, dtype=torch.bool).scatter(-1, order, True)
        return CHOICES.made(mask)

    monkeypatch.setattr(indexed, "kept", best_of_the_first_run_and_worst_of_others)
    inputs = {"prompt": decoder.loaded.cases["prompt"]}
    golden, _ = record(decoder, inputs, names, Rounding())
    (case,) = golden.cases
    off = np.abs(case.outputs["logits"] - case.outputs_reference["logits"]).max()
    assert len(set(runs)) > 1
    assert off <= 1e-4 * np.abs(case.outputs["logits"]).max()
