"""A generator of several graphs: what it keeps between requests changes no answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moe_export
from moe_export.errors import MemoryBudgetError, UnsafeInputError, UsageError
from moe_export.runtime import (
    Bundle,
    Cancellation,
    Conversation,
    Generator,
    Options,
    Request,
    Session,
)
from pretrained_models import IDS, TEXT, lively, tokenizer

LENGTH = 12
END = IDS["<|im_end|>"]

# Above what rounding does to a logit of these models (below 1e-5), so that no order of runs turns
# one of the greedy answers below.
CLEAR = 1e-3


@pytest.fixture(scope="module")
def generator(bundle) -> Iterator[Generator]:
    with Generator(bundle, threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def forgetful(bundle) -> Iterator[Generator]:
    """It keeps nothing."""
    with Generator(bundle, threads=1, reuse_prefix=False, max_image_bytes=0) as made:
        yield made


@pytest.fixture(scope="module")
def questions(photos) -> list[tuple[Any, str]]:
    return [
        (photos[0], "what is it?"),
        (photos[0], "what is that over there?"),
        (photos, "and these?"),
        (photos[1], "x"),
        ([photos[1], photos[0]], "and these?"),
        (None, "hello"),
        (None, "hello, you"),
        (None, "good bye"),
    ]


@pytest.fixture(scope="module")
def expected(forgetful, questions) -> list[moe_export.Answer]:
    return [forgetful.generate(*each, max_new_tokens=LENGTH) for each in questions]


def runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """By input, the sizes along which tokens or patches are counted, from now on."""
    seen: dict[str, list[int]] = {"input_ids": [], "pixel_values": []}
    run = Session.run

    def counted(self: Session, inputs: dict[str, Any], **given: Any) -> dict[str, Any]:
        for name, sizes in seen.items():
            if name in inputs:
                sizes.append(inputs[name].shape[-1 if name == "input_ids" else 0])
        return run(self, inputs, **given)

    monkeypatch.setattr(Session, "run", counted)
    return seen


def test_an_answer_is_that_of_transformers_with_its_ids_and_reason(generator, vision_eager, photos):
    answer = generator.generate(photos, "what is it?", max_new_tokens=LENGTH)
    assert list(answer.ids) == vision_eager.answer("what is it?", photos, length=LENGTH)
    assert answer.text == vision_eager.text(list(answer.ids))
    assert answer.finish_reason == "length"
    ids = vision_eager.prompt("what is it?", photos)["input_ids"][0].tolist()
    assert list(answer.prompt_ids) == ids


def test_what_is_kept_between_requests_changes_no_answer(generator, questions, expected):
    order = [0, 1, 0, 0, 2, 4, 3, 1, 5, 6, 7, 6, 5, 2, 0]
    made = [generator.generate(*questions[n], max_new_tokens=LENGTH) for n in order]
    assert made == [expected[n] for n in order]


def test_the_same_answers_come_behind_padding_of_other_lengths(generator, questions, expected):
    requests = [
        Request(image=image, prompt=prompt, options=Options(max_new_tokens=LENGTH))
        for image, prompt in questions
    ]
    for size in (1, 3, 8):
        assert generator.generate_batch(requests, batch_size=size) == expected


def test_rows_leave_a_batch_as_they_end(generator, questions, expected):
    limits = [5, 1, LENGTH, 3, 2, LENGTH, 7, 4]
    requests = [
        Request(image=image, prompt=prompt, options=Options(max_new_tokens=limit))
        for (image, prompt), limit in zip(questions, limits, strict=True)
    ]
    made = generator.generate_batch(requests, batch_size=8)
    assert [answer.ids for answer in made] == [
        whole.ids[:limit] for whole, limit in zip(expected, limits, strict=True)
    ]


def test_drawn_answers_depend_on_their_seed_and_on_nothing_beside(generator, questions):
    options = [
        Options(max_new_tokens=LENGTH, temperature=0.9, top_k=40, top_p=0.95, seed=seed)
        for seed in (1, 2, 3, 2**63)
    ]
    requests = [Request(prompt="hello", options=each) for each in (*options, *options[::-1])]
    alone = [
        generator.generate(
            None, "hello", max_new_tokens=LENGTH, temperature=0.9, top_k=40, top_p=0.95, seed=seed
        )
        for seed in (1, 2, 3, 2**63)
    ]
    assert len({answer.ids for answer in alone}) == 4
    assert generator.generate_batch(requests) == [*alone, *alone[::-1]]


def test_a_penalty_keeps_an_answer_from_repeating_itself(generator):
    plain = generator.generate(None, "good bye", max_new_tokens=40)
    varied = generator.generate(None, "good bye", max_new_tokens=40, repetition_penalty=5.0)
    assert len(set(varied.ids)) == len(varied.ids) > len(set(plain.ids))


def test_a_prompt_runs_from_where_it_differs(generator, questions, expected, monkeypatch):
    generator.generate(*questions[0], max_new_tokens=1)
    seen = runs(monkeypatch)
    answer = generator.generate(*questions[1], max_new_tokens=1)
    assert answer.ids == expected[1].ids[:1]
    first, second = expected[0].prompt_ids, expected[1].prompt_ids
    shared = next(n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert seen == {"input_ids": [len(second) - shared], "pixel_values": []}
    assert answer.reused_tokens == shared
    assert first[shared - 1] not in (IDS["<|image_pad|>"], IDS["<|vision_end|>"])


def test_a_second_turn_runs_its_own_tokens_alone(generator, forgetful, questions, monkeypatch):
    image, words = questions[0]
    first = generator.generate(image, words, max_new_tokens=LENGTH)
    behind = tuple(generator.tokenizer.encode("\nand now?", add_special_tokens=False).ids)
    turn = (*first.prompt_ids, *first.ids, END, *behind)
    alone = forgetful.generate(image, turn, max_new_tokens=LENGTH)
    seen = runs(monkeypatch)
    assert generator.generate(image, turn, max_new_tokens=LENGTH) == alone
    # The last token of the first answer was chosen and never ran.
    assert seen["input_ids"][0] == 1 + 1 + len(behind)
    assert seen["pixel_values"] == []


def test_an_image_is_looked_at_once_while_there_is_room(bundle, photos, monkeypatch):
    with Generator(bundle, threads=1) as roomy:
        seen = runs(monkeypatch)
        for image in (photos[0], photos[1], photos[0], photos, photos[::-1]):
            roomy.generate(image, "x", max_new_tokens=1)
        assert len(seen["pixel_values"]) == 2
    features = Conversation(bundle, threads=1).see(photos[0]).features
    nbytes = features * 64 * 4 * 3  # of one photograph: its features and two deepstack layers
    with Generator(bundle, threads=1, max_image_bytes=nbytes, reuse_prefix=False) as narrow:
        seen = runs(monkeypatch)
        for image in (photos[0], photos[0], photos[1], photos[1], photos[0]):
            narrow.generate(image, "x", max_new_tokens=1)
        assert len(seen["pixel_values"]) == 3
    with pytest.raises(UsageError, match="max_image_bytes"):
        Generator(bundle, max_image_bytes=-1)


def test_another_image_in_the_same_place_is_not_taken_for_the_first(generator, expected, photos):
    """Both have as many features, so that their prompts' ids are equal."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    made = [generator.generate(each, "what?", max_new_tokens=LENGTH) for each in pixels]
    assert made[0].prompt_ids == made[1].prompt_ids
    assert made[0].ids != made[1].ids
    assert generator.generate(pixels[0], "what?", max_new_tokens=LENGTH) == made[0]


def test_text_ends_in_front_of_a_stop_string(generator, expected):
    whole = expected[5]
    assert len(whole.text) > 6
    stop = whole.text[3:5]
    answer = generator.generate(None, "hello", max_new_tokens=LENGTH, stop=[stop, "never said"])
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.finish_reason == "stop_string"
    assert answer.ids == whole.ids[: len(answer.ids)]
    assert len(answer.ids) < LENGTH
    with generator.stream(None, "hello", max_new_tokens=LENGTH, stop=[stop]) as pieces:
        assert "".join(pieces) == answer.text
        assert pieces.answer == answer


def test_a_cache_with_no_room_for_the_prompt_is_an_error_before_anything_runs(
    bundle, photos, monkeypatch
):
    with Generator(bundle, threads=1, max_cache_tokens=30) as small:
        seen = runs(monkeypatch)
        with pytest.raises(
            MemoryBudgetError, match=r"may hold 30 tokens, the prompt has \d+"
        ) as no:
            small.stream(photos[0], "what is it?")
        assert "max_cache_tokens" in no.value.hint
        assert seen == {"input_ids": [], "pixel_values": []}


def test_an_answer_ends_with_an_error_where_its_cache_does(bundle, expected):
    room = len(expected[5].prompt_ids) + 3
    with Generator(bundle, threads=1, max_cache_tokens=room) as small:
        assert small.generate(None, "hello", max_new_tokens=4).ids == expected[5].ids[:4]
        pieces = small.stream(None, "hello", max_new_tokens=5)
        with pytest.raises(MemoryBudgetError, match=f"hold {room} tokens, this run makes"):
            list(pieces)
        assert pieces.answer.ids == expected[5].ids[:4]
        assert small.generate(None, "hello", max_new_tokens=4).ids == expected[5].ids[:4]
        longer = [Request(prompt="hello", options=Options(max_new_tokens=5))] * 2
        with pytest.raises(MemoryBudgetError, match="this run makes"):
            small.generate_batch(longer)


def test_padding_counts_for_no_row_that_is_left(bundle, generator, expected):
    """The longest prompt ends first; what it needed in front of the others goes with it."""
    short, long = expected[5], expected[6]
    room = len(long.prompt_ids) + 1
    with Generator(bundle, threads=1, max_cache_tokens=room) as small:
        grow = room - len(short.prompt_ids) + 1
        made = small.generate_batch(
            [
                Request(prompt="hello", options=Options(max_new_tokens=grow)),
                Request(prompt="hello, you", options=Options(max_new_tokens=2)),
            ]
        )
    assert made[0] == generator.generate(None, "hello", max_new_tokens=grow)
    assert made[1].ids == long.ids[:2]


def test_threads_answer_as_one_after_the_other(bundle, questions, expected):
    with Generator(bundle, threads=1) as shared, ThreadPoolExecutor(8) as pool:
        numbers = [n % len(questions) for n in range(8 * 12)]
        asked = pool.map(lambda n: shared.generate(*questions[n], max_new_tokens=LENGTH), numbers)
        for number, answer in zip(numbers, asked, strict=True):
            assert answer == expected[number]


def test_the_greedy_answers_of_these_tests_are_clear(bundle, questions):
    """What rounding moves a logit by, which the order of runs decides, could not turn them."""
    conversation = Conversation(bundle, threads=1)
    for image, prompt in questions:
        images = image if isinstance(image, list) else [image] if image is not None else []
        seen = [conversation.see(each) for each in images]
        steps = conversation.steps(conversation.encode(prompt, seen), seen)
        for _, (_, logits) in zip(range(LENGTH), steps, strict=False):
            second, first = np.sort(logits)[-2:]
            assert first - second > CLEAR


def test_a_stream_that_is_left_says_so_and_leaves_its_cache(generator, expected, monkeypatch):
    with generator.stream(None, "hello", max_new_tokens=LENGTH) as pieces:
        first = next(pieces)
    assert pieces.answer.finish_reason == "cancelled"
    assert pieces.answer.text == first
    assert list(pieces) == []
    seen = runs(monkeypatch)
    assert generator.generate(None, "hello", max_new_tokens=LENGTH) == expected[5]
    assert seen["input_ids"][0] < 4, "all of the prompt but its last token was still there"


def test_an_answer_is_cancelled_from_another_thread(generator):
    pieces = generator.stream(None, "hello", max_new_tokens=900)
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(list, pieces)
        while not pieces.answer.ids:
            pass
        pieces.cancel()
        said.result(timeout=60)
    assert pieces.answer.finish_reason == "cancelled"
    assert 0 < len(pieces.answer.ids) < 900


def test_a_batch_is_cancelled_from_another_thread(generator):
    cancel = Cancellation()
    requests = [Request(prompt="hello", options=Options(max_new_tokens=900))] * 4
    timer = threading.Timer(0.2, cancel.cancel)
    timer.start()
    made = generator.generate_batch(requests, batch_size=2, cancel=cancel)
    timer.join()
    assert [answer.finish_reason for answer in made] == ["cancelled"] * 4
    assert 0 < len(made[0].ids) < 900
    assert made[2].ids == ()
    assert generator.generate(None, "hello", max_new_tokens=1).ids


def test_a_closed_generator_says_so(bundle):
    with Generator(bundle, threads=1) as made:
        pass
    made.close()
    with pytest.raises(UsageError, match="closed"):
        made.generate(None, "hello")


async def pieces_of(generator: Generator, *question: Any) -> moe_export.Answer:
    async with generator.astream(*question, max_new_tokens=LENGTH) as pieces:
        said = [piece async for piece in pieces]
        assert "".join(said) == pieces.answer.text
        return pieces.answer


def test_tasks_answer_as_one_after_the_other(generator, questions, expected):
    async def ask() -> list[moe_export.Answer]:
        return await asyncio.gather(
            *[pieces_of(generator, *question) for question in questions],
            *[generator.agenerate(*question, max_new_tokens=LENGTH) for question in questions],
        )

    assert asyncio.run(ask()) == expected * 2


def test_the_event_loop_goes_on_while_an_answer_comes(generator):
    async def ask() -> int:
        answer, ticks = asyncio.create_task(generator.agenerate(None, "hello")), 0
        while not answer.done():
            ticks += 1
            await asyncio.sleep(0)
        assert (await answer).ids
        return ticks

    assert asyncio.run(ask()) > 10


def test_cancelling_a_task_ends_its_work(generator, expected):
    async def ask() -> moe_export.Answer:
        pieces = generator.astream(None, "hello", max_new_tokens=900)

        async def listen() -> None:
            async for _ in pieces:
                pass

        task = asyncio.create_task(listen())
        while len(task.get_stack()) and not getattr(pieces, "_stream", None):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        answer = pieces.answer
        assert answer.finish_reason == "cancelled"
        await asyncio.sleep(0.1)
        assert pieces.answer == answer, "nothing goes on behind"
        assert [piece async for piece in pieces] == []
        return answer

    cancelled = asyncio.run(ask())
    assert len(cancelled.ids) < 900
    assert generator.generate(None, "hello", max_new_tokens=LENGTH) == expected[5]


def test_a_task_that_is_cancelled_at_once_begins_nothing(generator):
    async def ask() -> None:
        task = asyncio.create_task(generator.agenerate(None, "hello"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())


def test_an_error_reaches_whoever_waits(generator):
    async def ask() -> None:
        with pytest.raises(UsageError, match="with one for the answer"):
            await generator.agenerate(None, "x" * 2000)

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "holds no token"),
        ([65] * 1024, "with one for the answer"),
        ([65, IDS["<|image_pad|>"]], "part of an image"),
    ],
)
def test_ids_that_are_no_prompt_are_refused(generator, prompt, message):
    with pytest.raises(UsageError, match=message):
        generator.stream(None, prompt)


def test_ids_that_the_model_has_no_row_for_are_refused(generator):
    with pytest.raises(UsageError, match="cannot run on these values"):
        generator.generate(None, [65, 10**6])
    assert generator.generate(None, "hello", max_new_tokens=1).ids


def test_ids_with_something_between_an_images_features_are_refused(generator, photos):
    ids = list(generator.generate(photos[0], "x", max_new_tokens=1).prompt_ids)
    place = ids.index(IDS["<|image_pad|>"])
    ids[place], ids[place - 1] = ids[place - 1], ids[place]
    ids[place], ids[place + 1] = ids[place + 1], ids[place]
    with pytest.raises(UsageError, match="between the features"):
        generator.stream(photos[0], ids)


def save(folder: Path, kind: str, **sizes: Any) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(kind, **{**TEXT, **sizes})
    model = lively(transformers.AutoModelForCausalLM.from_config(config))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


# A state of what came before, which cannot be cut; and caches that are copied for each token.
OTHERS = {
    "lfm2_moe": {
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention"],
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 1,
        "layer_types": ["sliding_attention"],
        "sliding_window": 6,
    },
}


@pytest.fixture(scope="module", params=OTHERS)
def other(request, tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp(request.param)
    save(folder / "model", request.param, **OTHERS[request.param])
    return moe_export.export(folder / "model", output=folder / "bundle")


def test_other_caches_change_no_answer_either(other, monkeypatch):
    decoder = other.manifest.components["decoder"]
    has_state = any("conv" in info.name for info in decoder.inputs)
    assert has_state or not decoder.in_place
    with Generator(other, threads=1, reuse_prefix=False) as forgetful:
        words = ["tell me", "tell me more", "tell you", "tell me"]
        expected = [forgetful.generate(None, each, max_new_tokens=LENGTH) for each in words]
        first = expected[0]
        turn = (*first.prompt_ids, *first.ids, 65, 66, 67)
        next_turn = forgetful.generate(None, turn, max_new_tokens=LENGTH)
    requests = [Request(prompt=each, options=Options(max_new_tokens=LENGTH)) for each in words]
    with Generator(other, threads=1) as generator:
        assert [generator.generate(None, w, max_new_tokens=LENGTH) for w in words] == expected
        assert generator.generate_batch(requests, batch_size=3) == expected
        assert generator.generate(None, "tell me", max_new_tokens=LENGTH) == first
        seen = runs(monkeypatch)
        assert generator.generate(None, turn, max_new_tokens=LENGTH) == next_turn
        assert seen["input_ids"][0] == 4, "what only goes on needs no cut"
        generator.generate(None, "tell me", max_new_tokens=1)
        assert seen["input_ids"][LENGTH] == (len(first.prompt_ids) if has_state else 1)


def test_a_vision_that_says_less_than_its_text_is_refused(bundle, photos, monkeypatch):
    run = Session.run

    def short(self: Session, inputs: dict[str, Any], **given: Any) -> dict[str, Any]:
        made = run(self, inputs, **given)
        if "pixel_values" in inputs:
            made["image_embeds"] = made["image_embeds"][1:]
        return made

    monkeypatch.setattr(Session, "run", short)
    with (
        Generator(bundle, threads=1) as generator,
        pytest.raises(UnsafeInputError, match="features of an image"),
    ):
        generator.generate(photos[0], "x")
