from __future__ import annotations

import asyncio
import io
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from bundle.toy import VOCABULARY, bigram_model, export
from moe_export.errors import UnsafeInputError, UnsupportedError, UsageError
from moe_export.runtime import Generator, Options, Request

DARK = np.zeros((2, 2), np.uint8)
BRIGHT = np.full((2, 2), 255, np.uint8)


@pytest.fixture(scope="module")
def generator(bigram):
    return Generator(bigram, threads=1)


def made(tmp_path, **changes) -> Generator:
    export(bigram_model(**changes), tmp_path / "out")
    return Generator(tmp_path / "out", threads=1)


def test_the_answer_depends_on_the_image_and_ends_where_the_model_ends(generator):
    assert generator.generate(DARK, "which digit").text == "seven"
    assert generator.generate(BRIGHT, "which digit").text == "nine or so"


def test_an_image_file_answers_like_its_pixels(generator, tmp_path):
    file = io.BytesIO()
    PIL.Image.fromarray(BRIGHT).save(file, "PNG")
    (tmp_path / "bright.png").write_bytes(file.getvalue())
    assert generator.generate(tmp_path / "bright.png", "which digit").text == "nine or so"


def test_pieces_of_a_stream_join_to_the_answer_as_they_come(generator):
    stream = generator.stream(BRIGHT, "which digit")
    assert next(stream) == "nine"
    assert list(stream) == [" or", " so"]


def test_rows_of_a_batch_answer_as_they_would_alone(generator):
    images = [DARK, BRIGHT, DARK, BRIGHT]
    prompts = ["which digit", "which digit", "digit", "seven which nine digit"]
    alone = [generator.generate(i, p) for i, p in zip(images, prompts, strict=True)]
    assert [answer.text for answer in alone] == ["seven", "nine or so", "seven", "nine or so"]
    requests = [Request(image=i, prompt=p) for i, p in zip(images, prompts, strict=True)]
    for batch_size in (1, 3, 64):
        assert generator.generate_batch(requests, batch_size=batch_size) == alone
    assert generator.generate_batch([]) == []


def test_an_image_may_come_prepared(generator):
    for image, answer in ((np.zeros, "seven"), (np.ones, "nine or so")):
        assert generator.generate(image((2, 2), np.float32), "which digit").text == answer


def test_an_answer_is_never_longer_than_asked(generator):
    short = generator.generate(BRIGHT, "which digit", max_new_tokens=2)
    assert (short.text, short.finish_reason) == ("nine or", "length")
    assert list(generator.stream(BRIGHT, "which digit", max_new_tokens=1)) == ["nine"]


def test_an_answer_never_exceeds_what_the_model_takes(generator):
    """``max_length`` is 12: with 11 tokens in the prompt there is room for one."""
    assert generator.generate(BRIGHT, "which digit " * 5).text == "nine"
    requests = [Request(image=BRIGHT, prompt=prompt) for prompt in ("which digit " * 5, "digit")]
    first, second = generator.generate_batch(requests)
    assert (first.text, first.finish_reason) == ("nine", "length")
    assert (second.text, second.finish_reason) == ("nine or so", "stop")


def test_an_answer_that_ends_at_once_is_empty(generator):
    assert generator.generate(DARK, "seven").text == ""
    assert list(generator.stream(DARK, "seven")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": None, "prompt": "digit"}, "needs an image"),
        ({"image": DARK, "prompt": "digit " * 11}, "the prompt has 12 tokens"),
        ({"image": DARK, "prompt": "digit", "max_new_tokens": 0}, "max_new_tokens must be"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_before_it_runs(generator, arguments, message):
    with pytest.raises(UsageError, match=message):
        generator.stream(**arguments)


def test_several_images_are_for_a_bundle_with_a_cache(generator):
    with pytest.raises(UsageError, match="takes one image"):
        generator.stream([np.zeros((2, 2), np.uint8)] * 2, "1")


def test_a_batch_of_nothing_is_refused(generator):
    with pytest.raises(UsageError, match="batch_size"):
        generator.generate_batch([Request(image=DARK, prompt="digit")], batch_size=0)


def test_one_wrong_request_of_a_batch_is_refused_before_any_runs(generator):
    requests = [Request(image=DARK, prompt="digit"), Request(prompt="digit")]
    with pytest.raises(UsageError, match="needs an image"):
        generator.generate_batch(requests)


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json"])
def test_a_bundle_that_cannot_speak_says_what_it_lacks(tmp_path, name):
    with pytest.raises(UsageError, match=f"has no {name}"):
        made(tmp_path, without=(name,))


def test_a_configuration_for_another_graph_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"takes \['image', 'tokens'\], generation gives"):
        made(tmp_path, edit_config=lambda config: config.update(text_input="input_ids"))


def test_an_image_model_without_its_preprocessor_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"generation gives \['tokens'\]"):
        made(tmp_path, without=("preprocessor_config.json",))


def test_an_output_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UnsafeInputError, match="'scores' is not an output"):
        made(tmp_path, edit_config=lambda config: config.update(logits_output="scores"))


def test_a_setting_this_release_would_ignore_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="unknown setting 'num_beams'"):
        made(tmp_path, edit_config=lambda config: config.update(num_beams=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 0}, "1 or more"),
        ({"eos_token_id": -1}, "negative"),
        ({"eos_token_id": "<eos>"}, "expected an integer"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_file(tmp_path, changes, message):
    with pytest.raises(UnsafeInputError, match=message) as refusal:
        made(tmp_path, edit_config=lambda config: config.update(changes))
    assert "generation_config.json" in refusal.value.where


def test_a_file_that_is_no_tokenizer_is_refused(generator, tmp_path):
    from dataclasses import replace

    from moe_export.bundle.stage import bundle  # the stage copies assets without reading them

    model = bigram_model()
    assets = dict(model.portable.assets) | {"tokenizer.json": b'{"version": "1.0"}'}
    place = tmp_path / "place"
    place.mkdir()
    bundle(replace(model, portable=replace(model.portable, assets=assets)), place)
    with pytest.raises(UnsafeInputError, match="not a tokenizer"):
        Generator(place)


def test_the_lower_id_wins_a_tie(tmp_path):
    """After a word the table knows nothing of, all logits are equal: id 0, the padding."""
    generator = made(tmp_path, edit_config=lambda config: config.update(eos_token_id=0))
    assert VOCABULARY["<pad>"] == 0
    assert generator.generate(DARK, "<eos>").text == ""


def test_an_answer_has_its_ids_and_says_why_it_ends(generator):
    answer = generator.generate(BRIGHT, "which digit")
    words = ["nine", "or", "so"]
    assert answer.ids == tuple(VOCABULARY[word] for word in words)
    assert answer.prompt_ids == tuple(VOCABULARY[word] for word in ["<bos>", "which", "digit"])
    assert answer.finish_reason == "stop"


def test_ids_may_be_given_in_place_of_words(generator):
    ids = [VOCABULARY[word] for word in ["<bos>", "which", "digit"]]
    for prompt in (ids, tuple(ids), np.array(ids)):
        assert generator.generate(BRIGHT, prompt) == generator.generate(BRIGHT, "which digit")


def test_a_stop_string_ends_an_answer_and_is_not_said(generator):
    answer = generator.generate(BRIGHT, "which digit", stop=["or s"])
    assert (answer.text, answer.finish_reason) == ("nine ", "stop_string")
    assert answer.ids == tuple(VOCABULARY[word] for word in ["nine", "or", "so"])
    pieces = generator.stream(BRIGHT, "which digit", stop=["or what"])
    assert list(pieces) == ["nine", " ", "or s", "o"], "what may begin one is held back"


def test_requests_of_a_batch_have_options_of_their_own(generator):
    options = [{"max_new_tokens": 1}, {"stop": ["or"]}, {"temperature": 3.0, "seed": 5}, {}]
    requests = [
        Request(image=BRIGHT, prompt="which digit", options=Options(**each)) for each in options
    ]
    made = generator.generate_batch(requests)
    alone = [generator.generate(BRIGHT, "which digit", **each) for each in options]
    assert made == alone
    assert [answer.text for answer in made[:2]] == ["nine", "nine "]


def test_threads_answer_as_one_after_the_other(generator):
    asked = [
        (image, prompt, seed)
        for seed in range(25)
        for image in (DARK, BRIGHT)
        for prompt in ("which digit", "seven which", "nine digit digit", "so")
    ]

    def ask(question):
        image, prompt, seed = question
        return generator.generate(image, prompt, temperature=2.0, seed=seed)

    expected = [ask(question) for question in asked]
    assert len({answer.ids for answer in expected}) > 10
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, asked)) == expected


def test_an_asynchronous_stream_has_the_same_pieces(generator):
    async def ask():
        pieces = generator.astream(BRIGHT, "which digit")
        with pytest.raises(UsageError, match="has not begun"):
            _ = pieces.answer
        return [piece async for piece in pieces], pieces.answer

    pieces, answer = asyncio.run(ask())
    assert pieces == ["nine", " or", " so"]
    assert answer == generator.generate(BRIGHT, "which digit")


def test_an_asynchronous_stream_may_be_closed_before_it_begins_and_in_between(generator):
    async def ask():
        unheard = generator.astream(BRIGHT, "which digit")
        await unheard.aclose()
        assert [piece async for piece in unheard] == []
        pieces = generator.astream(BRIGHT, "which digit")
        async for _ in pieces:
            break
        await pieces.aclose()
        assert [piece async for piece in pieces] == []
        return pieces.answer

    answer = asyncio.run(ask())
    assert (answer.text, answer.finish_reason) == ("nine", "cancelled")


def test_a_cache_is_for_a_bundle_that_has_one(bigram):
    with pytest.raises(UsageError, match="without a cache"):
        Generator(bigram, max_cache_tokens=9)


def test_logits_that_are_not_numbers_are_told(generator):
    with pytest.raises(UnsupportedError, match="not numbers"):
        generator.generate(np.full((2, 2), np.nan, np.float32), "which digit")


def test_many_answers_take_no_more_memory_than_some(generator):
    def ask():
        for seed in range(400):
            generator.generate(BRIGHT, "which digit", temperature=1.0, seed=seed)
        return resident_bytes()

    ask()
    before = ask()
    after = max(ask() for _ in range(3))
    # Of 1,200 answers none has left as much as 1,800 bytes; one object alone may make a pool grow.
    assert after - before < 2 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
