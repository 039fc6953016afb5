"""The logits of every token, for those who score text: the eager model's, and no other answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import moe_export
from moe_export.errors import UsageError
from moe_export.load import load
from moe_export.runtime import Bundle, Conversation, Generator, Session
from moe_export.runtime.cache import Cache
from moe_export.runtime.greedy import no_features
from moe_export.spec import export_spec
from pretrained.conftest import Eager, invoke

LENGTH = 12


@pytest.fixture(scope="module", params=["standard", "ort"])
def scoring(request, text_source, tmp_path_factory) -> Bundle:
    """Text alone, for both targets."""
    output = tmp_path_factory.mktemp("scoring") / f"{request.param}.moe"
    words = ("--target", request.param, "--all-logits")
    result = invoke("export", text_source, "-o", output, *words)
    assert result.exit_code == 0, result.stderr
    return Bundle.open(output)


@pytest.fixture(scope="module")
def seeing(vision_source, tmp_path_factory) -> Bundle:
    output = tmp_path_factory.mktemp("seeing") / "vision.moe"
    return moe_export.export(vision_source, output=output, all_logits=True)


def told(eager: Eager, ids: np.ndarray) -> np.ndarray:
    """The whole model's logits of every token, ``[B, S, V]``."""
    with torch.no_grad():
        logits: np.ndarray = eager.model(input_ids=torch.from_numpy(ids)).logits.numpy()
    return logits


def tolerance(expected: np.ndarray) -> float:
    """Two orders of the same sums: embedding, attention, experts and head, 64 wide."""
    return float(6 * 64 * np.finfo(np.float32).eps * np.abs(expected).max())


def some_ids(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 256, (batch, length))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 17), (3, 8)])
def test_every_token_of_a_prompt_has_the_eager_model_s_logits(scoring, text_eager, batch, length):
    ids = some_ids(batch, length)
    with Session(scoring, component="embed") as embed, Session(scoring, component="decoder") as it:
        embedded = embed.run({"input_ids": ids})
        cache = Cache(it, batch=batch)
        positions = np.broadcast_to(np.arange(length), (batch, length))
        last = cache.run({**embedded, "position_ids": positions})
    expected = told(text_eager, ids)
    assert cache.logits.shape == expected.shape
    assert np.abs(cache.logits - expected).max() <= tolerance(expected)
    assert last.tobytes() == cache.logits[:, -1].tobytes()


def test_a_text_in_pieces_has_the_logits_of_the_whole(seeing, vision_eager):
    ids = some_ids(2, 15)
    expected = told(vision_eager, ids)
    embed, decoder = (Session(seeing, component=name) for name in ("embed", "decoder"))
    cache = Cache(decoder, batch=2)
    made, start = [], 0
    for end in (7, 8, 15):
        embedded = embed.run({"input_ids": ids[:, start:end], **no_features(embed)})
        positions = np.broadcast_to(np.arange(start, end), (3, 2, end - start))
        cache.run({**embedded, "position_ids": positions})
        made.append(cache.logits.copy())
        start = end
    assert np.abs(np.concatenate(made, axis=1) - expected).max() <= 2 * tolerance(expected)


@pytest.mark.parametrize("words", ["x", "what is it?"])
def test_it_answers_what_transformers_answers(scoring, text_eager, words):
    speaker = Conversation(scoring, threads=1)
    ours = list(speaker.tokens(speaker.encode(words), max_new_tokens=LENGTH))
    assert ours == text_eager.answer(words, length=LENGTH)


def test_answers_about_images_are_those_of_the_last_logits_alone(seeing, bundle, photos):
    asked = {"max_new_tokens": LENGTH}
    first, second = (Generator(each, threads=1) for each in (seeing, bundle))
    question = (photos, "what is it?")
    assert first.generate(*question, **asked) == second.generate(*question, **asked)


def test_by_default_a_decoder_gives_the_last_alone(bundle, seeing, scoring):
    def logits(made: Bundle) -> tuple:
        outputs = {info.name: info.shape for info in made.component("decoder").outputs}
        return outputs["logits"]

    assert logits(bundle) == ("batch", 1, 320)
    assert logits(seeing) == logits(scoring) == ("batch", "sequence", 320)
    assert (bundle.has_all_logits, seeing.has_all_logits) == (False, True)


def test_golden_tensors_hold_every_token(scoring):
    for case in scoring.golden().cases:
        if case.component == "decoder":
            assert case.outputs["logits"].shape[:2] == case.inputs["inputs_embeds"].shape[:2]


def test_it_validates_beside_the_live_model(scoring, text_source):
    result = invoke("validate", scoring.path, "--source", text_source)
    assert result.exit_code == 0, result.stderr


def test_a_model_of_one_graph_gives_what_its_forward_gives(tmp_path: Path):
    module = torch.nn.Linear(4, 3)
    spec = export_spec(module, example_inputs=(torch.ones(2, 4),), all_logits=True)
    with pytest.raises(UsageError, match="not the folder of a Transformers model") as error:
        load(spec)
    assert error.value.where == "--all-logits"
