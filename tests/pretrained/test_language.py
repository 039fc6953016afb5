"""A directory of text alone: two graphs, and the answers of Transformers."""

from __future__ import annotations

import json

import pytest

from moe_export.errors import UsageError
from moe_export.runtime import Bundle, Conversation, Generator
from pretrained.conftest import invoke

LENGTH = 16


@pytest.fixture(scope="module")
def bundle(text_source, tmp_path_factory) -> Bundle:
    output = tmp_path_factory.mktemp("bundles") / "text.moe"
    result = invoke("export", text_source, "-o", output, "--target", "standard")
    assert result.exit_code == 0, result.stderr
    return Bundle.open(output)


@pytest.fixture(scope="module")
def speaker(bundle):
    return Conversation(bundle, threads=1)


def test_text_alone_becomes_two_graphs(bundle, text_eager):
    assert set(bundle.manifest.components) == {"embed", "decoder"}
    parameters = dict(text_eager.model.named_parameters())
    assert bundle.manifest.parameters == sum(each.numel() for each in parameters.values())
    assert not bundle.manifest.unused.keys() & parameters.keys()
    assert [block.status for block in bundle.manifest.blocks] == ["proven"]


@pytest.mark.parametrize("words", ["x", "what is it?", "tell me more " * 4])
def test_it_answers_what_transformers_answers(speaker, text_eager, words):
    ids = speaker.encode(words)
    assert ids == text_eager.prompt(words)["input_ids"][0].tolist()
    ours = list(speaker.tokens(ids, max_new_tokens=LENGTH))
    assert ours == text_eager.answer(words, length=LENGTH)


def test_the_program_says_it_too(bundle, text_eager):
    words = ("--prompt", "hello", "--max-new-tokens", LENGTH, "--json")
    result = invoke("run", bundle.path, *words)
    assert result.exit_code == 0, result.stderr
    expected = text_eager.text(text_eager.answer("hello", length=LENGTH))
    assert json.loads(result.stdout)["answer"] == expected


def test_it_validates_beside_the_live_model(bundle, text_source):
    result = invoke("validate", bundle.path, "--source", text_source)
    assert result.exit_code == 0, result.stderr


def test_the_card_of_the_directory_names_its_layers(text_source):
    result = invoke("inspect", text_source, "--json")
    assert result.exit_code == 0, result.stderr
    blocks = json.loads(result.stdout)["blocks"]
    assert [block["path"] for block in blocks] == ["model.layers.0.mlp"]


def test_an_image_is_refused(bundle, photos):
    with pytest.raises(UsageError, match="takes no image"):
        Generator(bundle, threads=1).generate(photos[0], "what is it?")
