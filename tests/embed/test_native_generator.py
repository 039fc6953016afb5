"""Answers of the C++ runtime: token for token what Python's runtime gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import moe_export
from embed.driver import Driver
from embed.make_sampling import draw
from families.talkers import TALKERS
from moe_export.errors import MemoryBudgetError, UnsupportedError, UsageError
from moe_export.runtime import Bundle, Conversation, Generator

LENGTH = 16
PROMPTS = ("Tell me a story.", "What?", "One two three four five six seven eight nine ten.")
SAMPLED = (
    {"temperature": 0.8, "seed": 1},
    {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "seed": 2},
    {"temperature": 1.0, "repetition_penalty": 1.3, "top_p": 0.8, "seed": 2**64 - 1},
    {"repetition_penalty": 1.5},
)
STOP, STOP_STRING, LONG, CANCELLED = 1, 2, 3, 4


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("drawings")
    made = []
    for number, shape in enumerate([(37, 61, 3), (80, 30, 3)]):
        path = folder / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(path)
        made.append(str(path))
    return made


@pytest.fixture
def driver():
    with Driver() as made:
        yield made


def asked(prompt: str, images: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "images": list(images),
        "options": {"max_new_tokens": LENGTH, **options},
    }


def greedy_ids(talk: Conversation, prompt: str, images: Sequence[str] = ()) -> list[int]:
    seen = [talk.see(Path(image)) for image in images]
    return list(talk.tokens(talk.encode(prompt, seen), seen, max_new_tokens=LENGTH))


def sampled_ids(talk: Conversation, prompt: str, options: dict[str, Any]) -> list[int]:
    """By the reference of the vectors, each token behind a prompt that holds those before it."""
    ids = talk.encode(prompt)
    said: list[int] = []
    for step in range(LENGTH):
        _, logits = next(talk.steps(ids + said))
        token = draw(logits, ids + said, options, step)
        if token in talk.dialogue.eos_token_ids:
            break
        said.append(token)
    return said


@pytest.mark.parametrize("which", ["seeing", "telling", "recurrent", "referring", "hashing"])
def test_greedy_answers_are_those_of_python(request, driver, which):
    bundle: Bundle = request.getfixturevalue(which)
    talk = Conversation(bundle, threads=1)
    driver.opened(bundle.path).ask("generator")
    for prompt in PROMPTS:
        (answer,) = driver.answers([asked(prompt)])
        assert answer["ids"] == greedy_ids(talk, prompt)
        text = talk.tokenizer.decode(answer["ids"], skip_special_tokens=True)
        assert answer["text"] == text == "".join(answer["pieces"])
        assert answer["finish"] == (LONG if len(answer["ids"]) == LENGTH else STOP)
        assert answer["prompt_tokens"] == len(talk.encode(prompt))


@pytest.mark.parametrize("count", [1, 2])
def test_answers_about_images_are_those_of_python(seeing, driver, drawings, photos, count):
    talk = Conversation(seeing, threads=1)
    driver.opened(seeing.path).ask("generator")
    for images in (drawings[:count], [str(photo) for photo in photos][:count]):
        (answer,) = driver.answers([asked("what is it?", images)])
        assert answer["ids"] == greedy_ids(talk, "what is it?", images)


@pytest.mark.parametrize("family", ["inkling2", "nemotron_h_omni"])
def test_answers_about_images_in_floats_and_padded_ones_are_those_of_python(
    family, driver, photos, tmp_path
):
    pytest.importorskip("torchvision", reason="its processor needs it when the bundle is made")
    (talker,) = (each for each in TALKERS if each.family == family)
    talker.save(tmp_path / "model")
    bundle = moe_export.export(tmp_path / "model", output=tmp_path / "bundle")
    talk = Conversation(bundle, threads=1)
    driver.opened(bundle.path).ask("generator")
    for images in ([str(photo)] for photo in photos):
        (answer,) = driver.answers([asked("what is it?", images)])
        assert answer["ids"] == greedy_ids(talk, "what is it?", images)


def test_an_image_may_be_bytes(seeing, driver, drawings):
    driver.opened(seeing.path).ask("generator", reuse_prefix=False)
    by_path, by_bytes = (
        driver.answers([{**asked("what?"), **image}])[0]["ids"]
        for image in ({"images": drawings[:1]}, {"encoded": drawings[0]})
    )
    assert by_path == by_bytes


@pytest.mark.parametrize("options", SAMPLED)
def test_drawn_answers_are_those_of_the_reference(telling, driver, options):
    talk = Conversation(telling, threads=1)
    driver.opened(telling.path).ask("generator")
    for prompt in PROMPTS:
        (answer,) = driver.answers([asked(prompt, **options)])
        assert answer["ids"] == sampled_ids(talk, prompt, options)


def test_other_seeds_draw_other_answers(telling, driver):
    driver.opened(telling.path).ask("generator")
    requests = [asked(PROMPTS[0], temperature=1.5, seed=seed) for seed in range(8)]
    assert len({tuple(answer["ids"]) for answer in driver.answers(requests)}) == 8


def test_ids_are_taken_as_they_are(telling, driver):
    talk = Conversation(telling, threads=1)
    driver.opened(telling.path).ask("generator")
    ids = talk.encode(PROMPTS[0])
    (answer,) = driver.answers([{"ids": ids, "options": {"max_new_tokens": LENGTH}}])
    assert answer["ids"] == greedy_ids(talk, PROMPTS[0])


@pytest.mark.parametrize("which", ["seeing", "telling", "recurrent", "referring", "hashing"])
def test_a_batch_answers_as_each_would_be_answered_alone(request, driver, drawings, which):
    bundle: Bundle = request.getfixturevalue(which)
    driver.opened(bundle.path).ask("generator")
    requests = [asked(prompt, seed=n, temperature=n % 2) for n, prompt in enumerate(PROMPTS)]
    requests[1]["options"]["max_new_tokens"] = 3  # one that leaves the others early
    if which == "seeing":
        requests += [asked("what?", drawings[:1]), asked("and these?", drawings)]
    alone = [driver.answers([each])[0]["ids"] for each in requests]
    together = driver.answers(requests)
    assert [answer["ids"] for answer in together] == alone
    for answer in together:
        assert "".join(answer["pieces"]) == answer["text"]


def test_a_batch_of_a_single_graph_is_answered_by_python_too(bigram, driver, tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(np.full((2, 2), 200, np.uint8)).save(image)
    driver.opened(bigram.path).ask("generator")
    prompts = ("a b", "c", "a b c d")
    options = {"max_new_tokens": 6}
    requests = [{"prompt": each, "images": [str(image)], "options": options} for each in prompts]
    generator = Generator(bigram, threads=1)
    for answer, prompt in zip(driver.answers(requests), prompts, strict=True):
        made: Any = generator.generate(image, prompt, max_new_tokens=6)
        assert answer["text"] == getattr(made, "text", made)
    with pytest.raises(UsageError, match="needs an image"):
        driver.answers([asked("a b")])


def test_an_answer_ends_in_front_of_a_stop_string(telling, driver):
    driver.opened(telling.path).ask("generator")
    (whole,) = driver.answers([asked(PROMPTS[0], temperature=1.0, seed=3)])
    stop = whole["text"][3:5]
    (answer,) = driver.answers([asked(PROMPTS[0], temperature=1.0, seed=3, stop=["zzz", stop])])
    assert answer["finish"] == STOP_STRING
    assert answer["text"] == "".join(answer["pieces"]) == whole["text"][: whole["text"].find(stop)]
    assert answer["ids"] == whole["ids"][: len(answer["ids"])]


def test_a_listener_may_end_an_answer_and_may_throw(telling, driver):
    driver.opened(telling.path).ask("generator")
    (answer,) = driver.answers([{**asked(PROMPTS[0]), "pieces": 2}])
    assert answer["finish"] == CANCELLED
    assert len(answer["pieces"]) == 2
    with pytest.raises(AssertionError, match="the listener is unwell"):
        driver.answers([{**asked(PROMPTS[0]), "pieces": 0}])
    assert driver.answers([asked(PROMPTS[0])])[0]["finish"] != CANCELLED


def test_an_answer_is_cancelled_from_another_thread(telling, driver):
    driver.opened(telling.path).ask("generator")
    (answer,) = driver.answers([asked(PROMPTS[0], max_new_tokens=10**6)], cancel_after_ms=30)
    assert answer["finish"] in (CANCELLED, STOP, LONG)
    whole = driver.answers([asked(PROMPTS[0], max_new_tokens=10**6)])[0]
    assert answer["ids"] == whole["ids"][: len(answer["ids"])]
    answers = driver.answers([asked(each) for each in PROMPTS], cancel_after_ms=0)
    assert all(answer["finish"] in (CANCELLED, STOP, LONG) for answer in answers)


def test_a_prompt_goes_on_where_the_last_one_agrees(telling, driver):
    driver.opened(telling.path).ask("generator")
    first, second = "The quick brown fox", "The quick brown cat"
    (one,) = driver.answers([asked(first)])
    (two,) = driver.answers([asked(second)])
    (again,) = driver.answers([asked(second)])
    assert one["reused_tokens"] == 0
    assert 16 <= two["reused_tokens"] < two["prompt_tokens"]
    assert again["reused_tokens"] == again["prompt_tokens"] - 1
    driver.ask("generator", reuse_prefix=False)
    for prompt, answer in ((first, one), (second, two), (second, again)):
        (alone,) = driver.answers([asked(prompt)])
        assert (alone["ids"], alone["reused_tokens"]) == (answer["ids"], 0)


def test_an_image_is_reused_whole_and_only_where_it_is_the_same(seeing, driver, drawings):
    driver.opened(seeing.path).ask("generator")
    first, second = drawings
    requests = [
        asked("what is it?", [first]),
        asked("what was it?", [first]),
        asked("what was it?", [second]),
        asked("what was it?", [first, second]),
        asked("what was it?", [first]),
    ]
    answers = [driver.answers([each])[0] for each in requests]
    reused = [answer["reused_tokens"] for answer in answers]
    features = 20  # fewer than those of the first image alone
    assert reused[0] == 0
    assert reused[1] > features
    assert 0 < reused[2] < features, "what stands in front of the image"
    assert reused[3] < features
    assert reused[4] > features
    driver.ask("generator", reuse_prefix=False, max_image_bytes=-1)
    for each, answer in zip(requests, answers, strict=True):
        assert driver.answers([each])[0]["ids"] == answer["ids"]


def test_a_state_is_reused_only_where_nothing_is_taken_back(recurrent, driver):
    driver.opened(recurrent.path).ask("generator")
    (answer,) = driver.answers([asked("abc", max_new_tokens=4)])
    assert driver.answers([asked("abd", max_new_tokens=4)])[0]["reused_tokens"] == 0
    talk = Conversation(recurrent, threads=1)
    ids = talk.encode("abc")
    driver.ask("generator")
    options = {"max_new_tokens": 4}
    (answer,) = driver.answers([{"ids": ids, "options": options}])
    longer = ids + answer["ids"] + [97, 98]
    (more,) = driver.answers([{"ids": longer, "options": options}])
    assert more["reused_tokens"] == len(ids) + 3, "its last token has not run"
    driver.ask("generator")
    assert driver.answers([{"ids": longer, "options": options}])[0]["ids"] == more["ids"]


def test_what_followed_another_prompt_is_not_reused(referring, driver):
    options = {"max_new_tokens": 12}  # of which a window holds six
    driver.opened(referring.path).ask("generator")
    ids = Conversation(referring, threads=1).encode("abc")
    (answer,) = driver.answers([{"ids": ids, "options": options}])
    longer = ids + answer["ids"] + [97, 98]
    (more,) = driver.answers([{"ids": longer, "options": options}])
    assert more["reused_tokens"] == 0
    driver.ask("generator")
    assert driver.answers([{"ids": longer, "options": options}])[0]["ids"] == more["ids"]


def test_a_cache_has_an_end(telling, driver):
    driver.opened(telling.path).ask("generator", max_cache_tokens=60)
    assert driver.answers([asked("hi", max_new_tokens=4)])[0]["finish"] in (STOP, LONG)
    with pytest.raises(MemoryBudgetError, match="may hold 60 tokens, the prompt has 99"):
        driver.answers([asked("x" * 80)])
    # Of many answers one at least goes on beyond the end.
    prompt = asked("hi", max_new_tokens=500, temperature=1.0)
    with pytest.raises(MemoryBudgetError, match="may hold 60 tokens, this run makes 61"):
        driver.answers([{**prompt, "options": {**prompt["options"], "seed": n}} for n in range(16)])
    assert driver.answers([asked("hi", max_new_tokens=4)])[0]["ids"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or more, got -1"),
        ({"top_k": -1}, "top_k must be 0 or more, got -1"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"repetition_penalty": -2.0}, "repetition_penalty must be above 0, got -2"),
        ({"stop": [""]}, "stop must be strings that are not empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(telling, driver, options, words):
    driver.opened(telling.path).ask("generator")
    with pytest.raises(UsageError, match=words):
        driver.answers([asked("hi", **options)])


def test_requests_that_no_model_can_be_asked_are_refused(telling, seeing, driver, drawings):
    driver.opened(telling.path).ask("generator")
    with pytest.raises(UsageError, match="takes no image"):
        driver.answers([asked("hi", drawings[:1])])
    with pytest.raises(UsageError, match="the model takes 1024"):
        driver.answers([asked("x" * 1024)])
    with pytest.raises(UsageError, match="there is no such image"):
        driver.answers([asked("hi", ["/nowhere.png"])])
    driver.opened(seeing.path).ask("generator")
    with pytest.raises(UsageError, match="stands for a part of an image"):
        driver.answers([{"ids": [1, 2, 260], "options": {}}])


def test_a_bundle_without_a_tokenizer_answers_nothing(tmp_path, driver):
    from bundle.toy import export, linear_model

    export(linear_model(), tmp_path / "bundle")
    with pytest.raises((UsageError, UnsupportedError), match="cannot answer in text"):
        driver.opened(tmp_path / "bundle").ask("generator")


def test_threads_may_share_a_generator(telling, driver):
    driver.opened(telling.path).ask("generator")
    requests = [asked(prompt, seed=n, temperature=0.9) for n, prompt in enumerate(PROMPTS)]
    for each in requests:
        each["options"]["max_new_tokens"] = 5
    said = driver.ask("threads", threads=4, rounds=25, requests=requests)
    assert said["trouble"] == ""
    assert (said["asked"], said["differing"]) == (100, 0)


def test_requests_leave_no_memory_behind(telling, driver):
    driver.opened(telling.path).ask("generator")
    request = asked(PROMPTS[0], max_new_tokens=4)
    sizes = driver.ask("soak", rounds=300, request=request)["sizes"]
    # From its third part on; a page here and there belongs to ONNX Runtime's own threads.
    settled = sizes[len(sizes) // 3 :]
    assert max(settled) - min(settled) < 2**20
