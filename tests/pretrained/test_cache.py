"""A decoder's cache: it grows where it lies, for one text or several, and has an end."""

from __future__ import annotations

import gc
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moe_export
from moe_export.errors import MemoryBudgetError, UnsafeInputError, UsageError
from moe_export.runtime import Bundle, Conversation, Generator, Session, cache
from moe_export.runtime.cache import Cache
from moe_export.runtime.greedy import greedy, no_features
from pretrained_models import EXPERTS, TEXT, lively, tokenizer

LENGTH = 12


@pytest.fixture(scope="module")
def embed(bundle) -> Session:
    return Session(bundle, component="embed", threads=1)


@pytest.fixture(scope="module")
def decoder(bundle) -> Session:
    return Session(bundle, component="decoder", threads=1)


def prompt(*lengths: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Texts of these lengths and their mask, padded on the left."""
    ids = np.random.default_rng(seed).integers(0, 256, (len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) >= max(lengths) - np.array(lengths)[:, None]).astype(np.int64)
    return ids * mask, mask


def answers(embed: Session, cache: Cache, ids: np.ndarray, mask: np.ndarray, axes: int) -> list:
    """Greedily, ``LENGTH`` tokens for each text of a batch; positions on so many axes."""
    positions = (mask.cumsum(1) - 1).clip(0)
    made = []
    for _ in range(LENGTH):
        spread = np.broadcast_to(positions, (axes, *positions.shape)) if axes > 1 else positions
        embedded = embed.run({"input_ids": ids, **no_features(embed)})
        logits = cache.run({**embedded, "position_ids": spread}, mask)
        made.append(logits.argmax(-1))
        ids, mask, positions = made[-1][:, None], np.ones_like(mask[:, :1]), positions[:, -1:] + 1
    return np.stack(made, axis=1).tolist()


def told(model: Any, ids: np.ndarray, mask: np.ndarray) -> list:
    """What Transformers answers."""
    made = model.generate(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        max_new_tokens=LENGTH,
        min_new_tokens=LENGTH,
        do_sample=False,
        pad_token_id=0,
    )
    return made[:, ids.shape[1] :].tolist()


@pytest.fixture
def with_end_tokens(vision_eager):
    """Answers go on behind the token that ends one: ``min_new_tokens`` would forbid it."""
    config = vision_eager.model.generation_config
    kept, config.eos_token_id = config.eos_token_id, None
    yield vision_eager
    config.eos_token_id = kept


@pytest.mark.parametrize("lengths", [(9,), (9, 9), (9, 4), (3, 11, 1)])
def test_a_padded_batch_says_what_generate_says(embed, decoder, with_end_tokens, lengths):
    ids, mask = prompt(*lengths)
    made = answers(embed, Cache(decoder, batch=len(lengths)), ids, mask, axes=3)
    assert made == told(with_end_tokens.model, ids, mask)
    assert len({token for row in made for token in row}) > 2


def test_growing_changes_no_answer(embed, decoder, monkeypatch):
    ids, mask = prompt(5, 2)
    expected = answers(embed, Cache(decoder, batch=2), ids, mask, axes=3)
    monkeypatch.setattr(cache, "_BEHIND_TOKENS", 0)
    small = Cache(decoder, batch=2)
    assert answers(embed, small, ids, mask, axes=3) == expected
    assert small.length == 5 + LENGTH - 1


def steps(embed: Session, cache: Cache, length: int = 5):
    """Greedy decoding of one text of so many tokens."""
    ids, _ = prompt(length)
    positions = np.broadcast_to(np.arange(length), (3, 1, length))
    return greedy(embed, cache, ids=ids, features=no_features(embed), positions=positions)


def test_a_step_writes_its_rows_behind_the_others_and_moves_none(embed, decoder):
    cache = Cache(decoder)
    decoding = steps(embed, cache)
    next(decoding)
    before = cache.tensors()
    copies = {name: tensor.copy() for name, tensor in before.items()}
    for _ in range(20):
        next(decoding)
    after = cache.tensors()
    assert len(after) == 4
    for name, tensor in after.items():
        assert tensor.ctypes.data == before[name].ctypes.data
        assert tensor.shape[0] == before[name].shape[0] + 20
        assert tensor[: len(copies[name])].tobytes() == copies[name].tobytes()
        assert np.abs(tensor[len(copies[name]) :]).max(axis=(1, 2, 3)).min() > 0


def test_an_answer_begins_without_a_copy_of_the_prompts_cache(embed, decoder):
    cache = Cache(decoder)
    decoding = steps(embed, cache, length=300)
    next(decoding)
    places = {name: tensor.ctypes.data for name, tensor in cache.tensors().items()}
    next(decoding)
    assert {name: tensor.ctypes.data for name, tensor in cache.tensors().items()} == places


def test_rows_that_cannot_grow_are_refused(decoder):
    binding = decoder.bind()
    (past,) = (info for info in decoder.inputs if info.name == "past_key_0")
    rows = np.zeros([8, 1, *past.shape[2:]], np.float32)
    for wrong in (rows.astype(np.float64), rows[0], rows[::2]):
        with pytest.raises(UsageError):
            binding.hold("past_key_0", "present_key_0", wrong)
    binding.hold("past_key_0", "present_key_0", rows)
    for before, after in ((3, 9), (5, 4), (-1, 2)):
        with pytest.raises(UsageError, match="where 8 are held"):
            binding.grow(before, after)
    binding.grow(3, 8)


def test_what_lies_in_the_cache_is_what_is_attended_to(embed, decoder):
    """A copy that a run kept of its own would not notice."""
    cache = Cache(decoder)
    first, second = (steps(embed, cache) for cache in (cache, Cache(decoder)))
    for decoding in (first, second):
        next(decoding)
    for tensor in cache.tensors().values():
        tensor[1] += 1
    assert not np.allclose(next(first)[1], next(second)[1])


def test_a_step_allocates_less_than_the_cache_holds(embed, decoder):
    cache = Cache(decoder)
    decoding = steps(embed, cache, length=1000)
    list(islice(decoding, 3))
    held = sum(tensor.nbytes for tensor in cache.tensors().values())
    gc.collect()
    tracemalloc.start()
    try:
        list(islice(decoding, 20))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held > 500_000
    assert peak < held / 8


def test_a_full_cache_says_so_and_stays_as_it_was(embed, decoder):
    cache = Cache(decoder, max_tokens=8)
    decoding = steps(embed, cache)
    assert len(list(islice(decoding, 4))) == 4
    with pytest.raises(MemoryBudgetError, match="full: it may hold 8 tokens, this run makes 9"):
        next(decoding)
    assert cache.length == 8
    with pytest.raises(UsageError, match="1 token or more, not 0"):
        Cache(decoder, max_tokens=0)


def test_an_answer_ends_with_an_error_where_its_cache_does(bundle, vision_eager):
    words = "what is it?"
    ids = Conversation(bundle, threads=1).encode(words)
    limited = Conversation(bundle, threads=1, max_cache_tokens=len(ids) + 3)
    expected = vision_eager.answer(words, length=8)
    pieces = limited.tokens(ids, max_new_tokens=8)
    assert list(islice(pieces, 4)) == expected[:4]
    with pytest.raises(MemoryBudgetError, match="max_cache_tokens"):
        next(pieces)
    with pytest.raises(MemoryBudgetError, match="the cache is full"):
        Generator(bundle, threads=1, max_cache_tokens=len(ids) - 1).stream(None, words)


def test_rows_of_another_batch_are_refused(embed, decoder):
    ids, mask = prompt(4, 4)
    embedded = embed.run({"input_ids": ids, **no_features(embed)})
    positions = np.broadcast_to(np.arange(4), (3, 2, 4))
    cache = Cache(decoder, batch=3)
    with pytest.raises(UsageError, match="cannot run on these values"):
        cache.run({**embedded, "position_ids": positions}, mask[:1])
    assert cache.length == 0


def test_a_graph_without_a_cache_is_none_of_a_decoder(embed):
    with pytest.raises(UnsafeInputError, match="gives no 'logits'"):
        Cache(embed)


def test_the_bundle_says_which_caches_grow(bundle, decoder):
    in_place = bundle.manifest.components["decoder"].in_place
    assert in_place == {
        name.replace("past", "present"): name
        for name in decoder.input_names
        if name.startswith("past_")
    }
    assert bundle.manifest.components["embed"].in_place == {}


def save_windowed(folder: Path, **sizes: Any) -> Any:
    """A Mixtral whose layers see a window, and its tokenizer."""
    import transformers

    experts = {"num_local_experts": 4, "num_experts_per_tok": EXPERTS["num_experts_per_tok"]}
    config = transformers.AutoConfig.for_model("mixtral", **{**TEXT, **experts, **sizes})
    model = lively(transformers.AutoModelForCausalLM.from_config(config))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def windowed(tmp_path_factory) -> tuple[Bundle, Any]:
    folder = tmp_path_factory.mktemp("windowed")
    model = save_windowed(folder / "model", sliding_window=7, num_hidden_layers=1)
    moe_export.export(folder / "model", output=folder / "bundle")
    return Bundle.open(folder / "bundle"), model


@pytest.mark.parametrize("lengths", [(4,), (20,), (13, 3)])
def test_a_window_is_kept_behind_a_cache(windowed, lengths):
    bundle, model = windowed
    assert bundle.manifest.components["decoder"].in_place
    embed, decoder = (Session(bundle, component=name) for name in ("embed", "decoder"))
    ids, mask = prompt(*lengths, seed=3)
    made = answers(embed, Cache(decoder, batch=len(lengths)), ids, mask, axes=1)
    assert made == told(model, ids, mask)
