"""The digits example: images, questions, tokenizer, model, and what training leaves behind."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture
def tokenizer():
    from digits_vlm.tokenizer import train_tokenizer

    return train_tokenizer()


@pytest.fixture
def model(tokenizer):
    return tiny_model(tokenizer.get_vocab_size())


def tiny_model(vocab_size, **sizes):
    from digits_vlm.model import DigitsVLM, DigitsVLMConfig

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 8, "num_layers": 2, "num_heads": 2}
    return DigitsVLM(DigitsVLMConfig(vocab_size=vocab_size, **(small | sizes)))


# The images


def test_no_image_is_in_both_parts():
    from digits_vlm.data import split_digits

    training, held_out = split_digits()
    pixels = [{image.tobytes() for image in part.images} for part in (training, held_out)]
    assert not pixels[0] & pixels[1]
    rows = np.concatenate([training.indices, held_out.indices])
    assert np.array_equal(np.sort(rows), np.arange(1797))


def test_a_fifth_of_each_digit_is_held_out_and_always_the_same():
    from digits_vlm.data import split_digits

    training, held_out = split_digits()
    for digit in range(10):
        held, trained = (np.count_nonzero(part.labels == digit) for part in (held_out, training))
        assert held == round((held + trained) * 0.2)
    assert np.array_equal(split_digits()[1].indices, held_out.indices)


def test_pixels_fill_zero_to_one():
    from digits_vlm.data import split_digits

    for part in split_digits():
        assert part.images.dtype == np.float32
        assert (part.images.min(), part.images.max()) == (0.0, 1.0)


def test_a_shifted_image_is_the_image_moved_by_at_most_one_pixel():
    from digits_vlm.data import shift_images

    images = np.random.default_rng(0).random((50, 8, 8), np.float32)
    shifted = shift_images(images, 1.0, np.random.default_rng(1))
    seen = set()
    for before, after in zip(np.pad(images, ((0, 0), (1, 1), (1, 1))), shifted, strict=True):
        fits = [
            (top, left)
            for top, left in itertools.product(range(3), repeat=2)
            if np.array_equal(before[top : top + 8, left : left + 8], after)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 9
    assert np.array_equal(shift_images(images, 0.0, np.random.default_rng(1)), images)


# The questions


def test_numbers_are_named_in_order():
    from digits_vlm.questions import NUMBERS

    assert " ".join(NUMBERS) == "zero one two three four five six seven eight nine ten"


def true_answer(digit: int, kind: str, text: str) -> str:
    """Worked out from the words of the question, another way than the example does."""
    from digits_vlm.questions import NUMBERS

    names = list(NUMBERS)
    number = names.index(text.rstrip("?").split()[-1]) if kind in ("compare", "match") else 0
    return {
        "name": names[digit],
        "parity": ("even", "odd", "even", "odd", "even", "odd", "even", "odd", "even", "odd")[
            digit
        ],
        "compare": "yes" if digit in range(number + 1, 10) else "no",
        "match": "yes" if names[digit] == names[number] else "no",
        "next": names[digit + 1],
        "spell": " ".join(list(names[digit])),
    }[kind]


@pytest.mark.parametrize("digit", range(10))
def test_every_answer_to_every_question_is_true(digit):
    from digits_vlm.questions import KINDS, PHRASINGS, questions_about

    assert len(KINDS) == 6
    for kind in KINDS:
        assert len(PHRASINGS[kind]) >= 3
        questions = questions_about(digit, kind)
        assert {question.kind for question in questions} == {kind}
        for question in questions:
            assert question.answer == true_answer(digit, kind, question.text), question


def test_an_unknown_kind_is_refused():
    from digits_vlm.questions import questions_about

    with pytest.raises(ValueError, match="kind must be one of"):
        questions_about(3, "colour")


@pytest.mark.parametrize("kind", ["match", "compare"])
def test_yes_and_no_are_equally_likely(kind):
    from digits_vlm.questions import ask

    rng = np.random.default_rng(0)
    count = 4000
    yes = sum(ask(5, kind, rng).answer == "yes" for _ in range(count))
    # A fair coin strays five standard deviations once in 1.7 million; the seed is fixed anyway.
    assert abs(yes - count / 2) < 5 * np.sqrt(count / 4)


def test_held_out_questions_ask_every_kind_about_every_held_out_image():
    from digits_vlm.data import split_digits
    from digits_vlm.evaluate import held_out_questions
    from digits_vlm.questions import KINDS

    _, held_out = split_digits()
    asked = held_out_questions()
    rows = [(row, kind) for row in range(len(held_out)) for kind in KINDS]
    for (row, kind), image, question in zip(rows, asked.images, asked.questions, strict=True):
        assert question.kind == kind
        assert np.array_equal(image, held_out.images[row])
        assert question.answer == true_answer(held_out.labels[row], kind, question.text)
    assert held_out_questions().questions == asked.questions
    assert held_out_questions(seed=8).questions != asked.questions


# The tokenizer


def every_question():
    from digits_vlm.questions import KINDS, questions_about

    return [
        question
        for digit in range(10)
        for kind in KINDS
        for question in questions_about(digit, kind)
    ]


def test_the_tokenizer_is_the_same_on_every_call(tokenizer):
    from digits_vlm.tokenizer import VOCAB_SIZE, train_tokenizer

    assert train_tokenizer().to_str() == tokenizer.to_str()
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    larger = train_tokenizer(vocab_size=VOCAB_SIZE + 100)
    assert larger.get_vocab_size() == VOCAB_SIZE, "there are merges left to learn"


def test_questions_and_answers_survive_the_saved_tokenizer(tokenizer):
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_str(tokenizer.to_str())
    for question in every_question():
        prompt = loaded.encode(question.text)
        assert (prompt.tokens[0], prompt.tokens[-1]) == ("<bos>", "<sep>")
        assert loaded.decode(prompt.ids) == question.text
        both = loaded.encode(question.text, question.answer)
        start = len(prompt.ids)
        assert both.ids[:start] == prompt.ids
        assert both.type_ids == [0] * start + [1] * (len(both.ids) - start)
        assert both.tokens[-1] == "<eos>"
        assert loaded.decode(both.ids[start:]) == question.answer


def test_each_answer_word_is_one_token_and_fits_the_limit(tokenizer):
    from digits_vlm.evaluate import MAX_NEW_TOKENS

    for answer in {question.answer for question in every_question()}:
        ids = tokenizer.encode(answer, add_special_tokens=False).ids
        assert len(ids) == len(answer.split())
        assert len(ids) < MAX_NEW_TOKENS


@pytest.mark.parametrize("text", ["WHICH digit is this?", "größer als 四 ?", "", "a\tb"])
def test_any_text_can_be_asked(tokenizer, text):
    prompt = tokenizer.encode(text)
    assert (prompt.tokens[0], prompt.tokens[-1]) == ("<bos>", "<sep>")
    assert tokenizer.decode(prompt.ids) == text.lower()


# The model


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 5), (3, 48)])
def test_any_batch_and_any_length_make_logits_for_the_text(model, batch, length):
    vocab_size = model.config.vocab_size
    tokens = torch.randint(vocab_size, (batch, length))
    logits, router_logits = model(torch.rand(batch, 8, 8), tokens, return_router_logits=True)
    assert logits.shape == (batch, length, vocab_size)
    assert [block.shape for block in router_logits] == [(batch * (16 + length), 8)] * 2


def test_a_position_sees_the_whole_image_and_no_later_token(model):
    image = torch.rand(2, 8, 8, requires_grad=True)
    embedded = []
    model.token_embedding.register_forward_hook(lambda *call: embedded.append(call[-1]))
    logits = model(image, torch.randint(model.config.vocab_size, (2, 6)))
    seen, text = torch.autograd.grad(logits[:, 2].square().sum(), [image, embedded[0]])
    assert (seen != 0).all()
    assert (text[:, :3] != 0).any(dim=-1).all()
    assert (text[:, 3:] == 0).all()


def test_sparse_moe_is_its_experts_weighted_by_the_router():
    from digits_vlm.moe import SparseMoE

    torch.manual_seed(0)
    hidden_size, intermediate_size = 16, 12
    moe = SparseMoE(hidden_size, intermediate_size, num_experts=8, top_k=2).double()
    x = torch.randn(3, 40, hidden_size, dtype=torch.float64)
    y, router_logits = moe(x)

    rows, reached = x.flatten(0, 1), set()
    for row, logits, found in zip(rows, router_logits, y.flatten(0, 1), strict=True):
        assert torch.equal(logits.argsort(), (moe.gate.weight @ row).argsort())
        probs = logits.float().softmax(-1)
        best = probs.argsort(descending=True)[:2]
        weights = (probs[best] / probs[best].sum()).double()
        shared = torch.sigmoid(moe.shared_expert_gate.weight @ row) * moe.shared_expert(row)
        terms = [w * moe.experts[int(e)](row) for w, e in zip(weights, best, strict=True)]
        terms.append(shared)
        # Each term is two chained dot products; a weight is one float32 rounding off at most.
        roundings = (hidden_size + intermediate_size + 8) * np.finfo(np.float64).eps
        magnitude = sum(term.abs() for term in terms).max()
        error = (found - sum(terms)).abs().max()
        assert error <= (roundings + 4 * np.finfo(np.float32).eps) * magnitude
        reached |= set(best.tolist())
    assert reached == set(range(8))


def test_exported_with_symbolic_axes_other_sizes_run_and_match(model):
    """The dispatch depends on data, so the shared expert stands in for each MoE layer."""
    from digits_vlm.moe import SparseMoE

    class Dense(torch.nn.Module):
        def __init__(self, moe: SparseMoE) -> None:
            super().__init__()
            self.moe = moe

        def forward(self, x):
            return self.moe.shared_expert(x), self.moe.gate(x.reshape(-1, x.shape[-1]))

    for block in model.blocks:
        block.moe = Dense(block.moe)
    model.eval()

    def inputs(batch: int, length: int):
        return torch.rand(batch, 8, 8), torch.randint(model.config.vocab_size, (batch, length))

    auto = torch.export.Dim.AUTO
    shapes = {"image": {0: auto}, "tokens": {0: auto, 1: auto}}
    program = torch.export.export(model, inputs(3, 5), dynamic_shapes=shapes)
    for batch, length in [(2, 2), (7, 48), (4, 1), (1, 9)]:
        image, tokens = inputs(batch, length)
        found, wanted = program.module()(image, tokens), model(image, tokens)
        assert found.shape == wanted.shape
        assert torch.equal(found, wanted)


# The losses


def test_the_load_balancing_loss_is_one_when_tokens_spread_evenly():
    from digits_vlm.losses import load_balancing_loss

    assert load_balancing_loss(torch.zeros(40, 8), top_k=2) == 1
    turns = 30 * torch.eye(8).repeat(5, 1)
    # The other seven share exp(-30): too little to move a sum of float32.
    assert load_balancing_loss(turns, top_k=1).item() == pytest.approx(1, abs=8 * 2**-23)


def test_the_load_balancing_loss_is_experts_over_top_k_when_tokens_crowd():
    from digits_vlm.losses import load_balancing_loss

    crowded = torch.zeros(40, 8)
    crowded[:, 3] = crowded[:, 5] = 30
    assert load_balancing_loss(crowded, top_k=2).item() == pytest.approx(4, abs=32 * 2**-23)


def test_padding_does_not_count_towards_balance():
    from digits_vlm.losses import load_balancing_loss

    router_logits = torch.randn(30, 8)
    counted = torch.arange(30) < 20
    whole = load_balancing_loss(router_logits[:20], top_k=2)
    assert load_balancing_loss(router_logits, top_k=2, counted=counted) == whole


def test_only_answers_are_scored(tokenizer):
    from digits_vlm.batch import pack
    from digits_vlm.evaluate import held_out_questions
    from digits_vlm.losses import NOT_SCORED

    asked = held_out_questions()
    batch = pack(asked.images[:12], asked.questions[:12], tokenizer)
    for targets, question in zip(batch.targets, asked.questions, strict=False):
        scored = targets[targets != NOT_SCORED].tolist()
        assert tokenizer.decode(scored, skip_special_tokens=False) == f"{question.answer}<eos>"
    pad = tokenizer.token_to_id("<pad>")
    assert torch.equal(batch.is_text, batch.tokens != pad)


# Training


def briefly_trained(tokenizer, steps: int):
    from digits_vlm.data import split_digits
    from digits_vlm.train import Schedule, train

    model = tiny_model(tokenizer.get_vocab_size())
    schedule = Schedule(steps=steps, batch_size=16, warmup_steps=5)
    return model, train(model, split_digits()[0], tokenizer, schedule=schedule, seed=0)


def test_a_few_steps_lower_the_loss(tokenizer):
    from digits_vlm.batch import batches
    from digits_vlm.data import split_digits
    from digits_vlm.train import losses

    batch = next(batches(split_digits()[0], tokenizer, 64, seed=99))
    before, _ = losses(tiny_model(tokenizer.get_vocab_size()), batch)
    model, _ = briefly_trained(tokenizer, steps=40)
    after, _ = losses(model, batch)
    knows_nothing = np.log(tokenizer.get_vocab_size())
    assert after < knows_nothing < before


def test_the_same_seed_makes_the_same_weights(tokenizer):
    first, _ = briefly_trained(tokenizer, steps=4)
    second, _ = briefly_trained(tokenizer, steps=4)
    untrained = tiny_model(tokenizer.get_vocab_size()).state_dict()
    for (name, one), other in zip(first.state_dict().items(), second.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert not torch.equal(one, untrained[name]), name


def test_the_learning_rate_rises_and_falls_to_nothing():
    from digits_vlm.train import Schedule

    schedule = Schedule(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == 0.0


# Answers


class Parrot(torch.nn.Module):
    """Says ``words`` after ``<sep>``, whatever is asked; never stops if ``<eos>`` is not said."""

    def __init__(self, tokenizer, words: str) -> None:
        super().__init__()
        said = tokenizer.encode(words, add_special_tokens=False).ids
        self.follows = dict(itertools.pairwise([tokenizer.token_to_id("<sep>"), *said]))
        self.vocab_size = tokenizer.get_vocab_size()

    def forward(self, image, tokens):
        following = [[self.follows.get(token, token) for token in row] for row in tokens.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(following), self.vocab_size).float()


def test_generation_ends_at_eos_for_prompts_of_any_length(tokenizer):
    from digits_vlm.evaluate import eager_answer_fn

    answer = eager_answer_fn(Parrot(tokenizer, "seven of nine<eos>"), tokenizer)
    asked = ["even or odd?", "what do you get if you add one?", ""]
    assert answer(np.zeros((3, 8, 8), np.float32), asked) == ["seven of nine"] * 3


def test_generation_ends_at_its_limit(tokenizer):
    from digits_vlm.evaluate import MAX_NEW_TOKENS, eager_answer_fn

    answer = eager_answer_fn(Parrot(tokenizer, "no"), tokenizer)
    assert answer(np.zeros((1, 8, 8), np.float32), ["really?"]) == [
        " ".join(["no"] * MAX_NEW_TOKENS)
    ]


def test_accuracy_counts_answers_that_are_right_to_the_letter():
    from digits_vlm.evaluate import accuracy, held_out_questions

    asked = held_out_questions()
    answers = iter(question.answer for question in asked.questions)
    perfect = accuracy(lambda images, texts: [next(answers) for _ in texts])
    assert (perfect.overall, perfect.count) == (1.0, len(asked.questions))
    assert set(perfect.by_kind.values()) == {1.0}

    shouted = accuracy(lambda images, texts: ["Yes"] * len(images))
    assert shouted.overall == 0.0
    odd = accuracy(lambda images, texts: ["odd"] * len(images))
    share = np.mean([question.answer == "odd" for question in asked.questions])
    assert odd.overall == pytest.approx(share)
    assert {kind for kind, value in odd.by_kind.items() if value} == {"parity"}


def test_questions_can_be_listed_without_torch():
    code = (
        "import sys; from digits_vlm.evaluate import accuracy, held_out_questions; "
        "print(accuracy(lambda images, texts: ['no'] * len(texts)).count, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=True)
    count, has_torch = result.stdout.split()
    assert (int(count) > 2000, has_torch) == (True, "False")


# What a training run leaves behind


def test_the_checkpoint_holds_the_model_and_all_that_answers_need(tmp_path, model, tokenizer):
    from digits_vlm.model import build
    from digits_vlm.outputs import save_model

    model.eval()
    save_model(tmp_path / "model.pt", model, tokenizer)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    again = build(**saved["config"]).eval()
    again.load_state_dict(saved["state_dict"])
    inputs = saved["example_inputs"]
    assert list(inputs) == ["image", "tokens"]
    assert torch.equal(again(**inputs), model(**inputs))
    assert min(*inputs["image"].shape, *inputs["tokens"].shape) >= 2

    assets = {name: bytes(data.tolist()) for name, data in saved["assets"].items()}
    assert json.loads(assets["tokenizer.json"]) == json.loads(tokenizer.to_str())
    assert json.loads(assets["preprocessor_config.json"])["image_input"] == "image"
    generation = json.loads(assets["generation_config.json"])
    assert generation["text_input"] == "tokens"
    assert tokenizer.id_to_token(generation["eos_token_id"]) == "<eos>"
    assert tokenizer.id_to_token(generation["pad_token_id"]) == "<pad>"


def test_samples_are_held_out_images_with_true_answers(tmp_path):
    from digits_vlm.data import split_digits
    from digits_vlm.outputs import save_samples
    from digits_vlm.questions import KINDS, NUMBERS

    _, held_out = split_digits()
    save_samples(tmp_path, held_out)
    samples = json.loads((tmp_path / "questions.json").read_text())
    assert len({sample["image"] for sample in samples}) == 12
    assert {sample["kind"] for sample in samples} == set(KINDS)
    digits = set()
    for sample in samples:
        word, index = Path(sample["image"]).stem.split("-")
        row = np.flatnonzero(held_out.indices == int(index)).item()
        digit = int(held_out.labels[row])
        assert NUMBERS[digit] == word
        assert sample["answer"] == true_answer(digit, sample["kind"], sample["question"])
        with Image.open(tmp_path / sample["image"]) as image:
            pixels = np.asarray(image)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (8, 8))
        # Rounding to a level of 1/255 moves a pixel by half a level at most.
        assert np.abs(pixels / 255 - held_out.images[row]).max() <= 0.5 / 255
        digits.add(digit)
    assert digits == set(range(10))


def test_usage_shares_sum_to_one_and_parameters_are_counted(model, tokenizer):
    from digits_vlm.evaluate import QuestionSet, held_out_questions
    from digits_vlm.outputs import expert_usage, parameters

    asked = held_out_questions()
    some = QuestionSet(images=asked.images[:60], questions=asked.questions[:60])
    for shares in expert_usage(model, tokenizer, some):
        assert len(shares) == 8
        assert sum(shares) == pytest.approx(1)
    counts = parameters(model)
    assert counts["total"] == sum(weight.numel() for weight in model.parameters())
    # Six of eight experts idle in each of two blocks: three matrices of 16 x 8.
    assert counts["total"] - counts["active_per_token"] == 2 * 6 * 3 * 16 * 8
