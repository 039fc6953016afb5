"""A vision-language directory as a bundle: token for token the answers of Transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moe_export.dialogue import FILE_NAME
from moe_export.errors import UnsafeInputError, UsageError
from moe_export.runtime import Conversation, Generator, Session
from moe_export.validate import validate
from pretrained.conftest import Eager, invoke, put

EPS = np.finfo(np.float32).eps
LENGTH = 16


@pytest.fixture(scope="module")
def speaker(bundle) -> Conversation:
    return Conversation(bundle, threads=1)


@pytest.fixture(scope="module")
def drawing(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("drawing") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def tolerance(expected: np.ndarray | torch.Tensor, layers: int, width: int) -> float:
    """Both sides round sums of ``width`` products in each of so many layers, in another order."""
    return 2 * layers * width * float(EPS) * float(np.abs(np.asarray(expected)).max())


def test_the_parts_hold_every_parameter_and_every_layer_is_proven(bundle, vision_eager):
    manifest = bundle.manifest
    assert set(manifest.components) == {"vision", "embed", "decoder"}
    parameters = dict(vision_eager.model.named_parameters())
    assert manifest.parameters == sum(each.numel() for each in parameters.values())
    assert not manifest.unused.keys() & parameters.keys()
    assert [(block.path, block.status) for block in manifest.blocks] == [
        (f"model.language_model.layers.{layer}.mlp", "proven") for layer in range(2)
    ]
    assert manifest.components["decoder"].probes.keys() == {b.path for b in manifest.blocks}
    assert not manifest.components["vision"].probes


@pytest.mark.parametrize("which", ["bundle", "rounded"])
def test_each_part_reproduces_the_eager_one(request, which):
    made = request.getfixturevalue(which)
    result = invoke("validate", made.path, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["passed"] is True
    cases = {(case.component, case.name) for case in made.golden().cases}
    assert {component for component, _ in cases} == {"vision", "embed", "decoder"}
    assert ("decoder", "one token after padding") in cases
    assert ("vision", "three images") in cases
    assert ("embed", "text alone") in cases


def test_a_rounded_bundle_says_what_that_costs(rounded):
    assert str(rounded.manifest.precision) == "bf16"
    assert rounded.manifest.rounding is not None
    assert "logits" in rounded.manifest.rounding.outputs


def answers(speaker: Conversation, eager: Eager, words: str, images: list[Path]) -> tuple:
    seen = [speaker.see(image) for image in images]
    ids = speaker.encode(words, seen)
    assert ids == eager.prompt(words, images)["input_ids"][0].tolist()
    ours = list(speaker.tokens(ids, seen, max_new_tokens=LENGTH))
    return ours, eager.answer(words, images, length=LENGTH)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_it_answers_about_photographs_what_transformers_answers(
    speaker, vision_eager, photos, count
):
    ours, theirs = answers(speaker, vision_eager, "what is it?", photos[:count])
    assert ours == theirs
    assert len(set(ours)) > 2, "an answer of one token over and over shows little"


def test_images_of_several_shapes_stand_side_by_side(speaker, vision_eager, photos, drawing):
    ours, theirs = answers(speaker, vision_eager, "and now?", [drawing, photos[1], drawing])
    assert ours == theirs


def test_the_program_says_it_too(bundle, vision_eager, photos):
    words = ("--prompt", "what is it?", "--max-new-tokens", LENGTH)
    for images in (photos[:1], photos):
        given = [word for image in images for word in ("--image", image)]
        result = invoke("run", bundle.path, *given, *words, "--json")
        assert result.exit_code == 0, result.stderr
        expected = vision_eager.answer("what is it?", images, length=LENGTH)
        assert json.loads(result.stdout)["answer"] == vision_eager.text(expected)
        piecewise = invoke("run", bundle.path, *given, *words)
        assert piecewise.stdout_bytes.decode() == vision_eager.text(expected) + "\n"


def test_a_live_model_on_fresh_inputs_is_reproduced(bundle, vision_source):
    result = invoke("validate", bundle.path, "--source", vision_source, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    cases = {tensor["case"] for tensor in json.loads(result.stdout)["tensors"]}
    assert {"decoder, fresh 1", "embed, fresh 2", "vision, fresh 1"} <= cases


def decoder_inputs(session: Session, embeds: np.ndarray, start: int = 0, **given) -> dict:
    """Rows of embedded text that follow ``start`` tokens, without padding unless it is given."""
    batch, count = embeds.shape[:2]
    past = {info.name: info.shape for info in session.inputs if info.name.startswith("past_")}
    positions = np.broadcast_to(np.arange(start, start + count), (3, batch, count))
    return {
        "inputs_embeds": embeds,
        "deepstack_embeds": np.zeros((2, *embeds.shape), np.float32),
        "position_ids": np.ascontiguousarray(positions),
        "attention_mask": np.ones((batch, start + count), np.int64),
        **{n: np.zeros((0, batch, *s[2:]), np.float32) for n, s in past.items()},
        **given,
    }


def cache_of(made: dict) -> dict:
    return {f"past_{n[8:]}": x for n, x in made.items() if n.startswith("present_")}


@pytest.fixture(scope="module")
def decoder(bundle) -> Session:
    return Session(bundle, component="decoder", threads=1)


def embedded(eager: Eager, ids: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return eager.model.get_input_embeddings()(ids).numpy()


@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_prompt_of_any_length_and_the_token_after_it(decoder, vision_eager, length):
    ids = torch.randint(0, 256, (1, length + 1), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        expected = vision_eager.model(input_ids=ids).logits.numpy()
    embeds = embedded(vision_eager, ids)
    prompt = decoder.run(decoder_inputs(decoder, embeds[:, :length]))
    after = decoder.run(decoder_inputs(decoder, embeds[:, length:], length, **cache_of(prompt)))
    limit = tolerance(expected, layers=2 * 2 + 1, width=64)
    assert np.abs(prompt["logits"][:, -1] - expected[:, -2]).max() <= limit
    assert np.abs(after["logits"][:, -1] - expected[:, -1]).max() <= limit
    assert after["present_key_0"].shape[0] == length + 1


def test_padding_on_the_left_changes_no_row_of_a_batch(decoder, vision_eager):
    lengths, width = (2, 5, 7), 7
    rows = [torch.arange(40 * n, 40 * n + length)[None] for n, length in enumerate(lengths, 1)]
    alone = [decoder.run(decoder_inputs(decoder, embedded(vision_eager, row))) for row in rows]
    padded = torch.cat([torch.nn.functional.pad(row, (width - row.shape[1], 0)) for row in rows])
    mask = np.array([[0] * (width - length) + [1] * length for length in lengths])
    positions = np.broadcast_to((mask.cumsum(1) - 1).clip(0), (3, 3, width))
    inputs = decoder_inputs(decoder, embedded(vision_eager, padded), attention_mask=mask)
    together = decoder.run({**inputs, "position_ids": np.ascontiguousarray(positions)})
    # Then a token for each row, behind a cache that holds the padding.
    token = embedded(vision_eager, torch.tensor([[65], [66], [67]]))
    following = decoder_inputs(
        decoder,
        token,
        width,
        attention_mask=np.pad(mask, ((0, 0), (0, 1)), constant_values=1),
        position_ids=np.broadcast_to(np.array(lengths)[:, None], (3, 3, 1)).copy(),
        **cache_of(together),
    )
    later = decoder.run(following)["logits"]
    for n, (length, made) in enumerate(zip(lengths, alone, strict=True)):
        limit = tolerance(made["logits"], layers=2 * 2 + 1, width=64)
        assert np.abs(together["logits"][n] - made["logits"][0]).max() <= limit
        one = decoder_inputs(decoder, token[n : n + 1], length, **cache_of(made))
        assert np.abs(later[n] - decoder.run(one)["logits"][0]).max() <= limit


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_images_are_seen_apart_from_one_another(bundle, vision_eager, count):
    grids = np.array([[1, 4, 6], [1, 2, 2], [1, 8, 4], [1, 2, 10]])[:count]
    sizes = grids.prod(axis=1)
    pixels = np.random.default_rng(count).standard_normal((sizes.sum(), 96), np.float32)
    with Session(bundle, component="vision", threads=1) as session:
        made = session.run({"pixel_values": pixels, "image_grid_thw": grids})
    visual = vision_eager.model.model.visual
    parts = zip(np.split(pixels, sizes.cumsum()[:-1]), grids, strict=True)
    with torch.no_grad():
        seen = [visual(torch.tensor(rows), torch.tensor(grid[None])) for rows, grid in parts]
    expected = torch.cat([each.pooler_output for each in seen])
    limit = tolerance(expected, layers=2 * 3 + 2, width=128)
    assert np.abs(made["image_embeds"] - expected.numpy()).max() <= limit
    for layer, features in enumerate(made["deepstack"]):
        expected = torch.cat([each.deepstack_features[layer] for each in seen])
        assert np.abs(features - expected.numpy()).max() <= limit


def test_an_image_s_token_without_a_feature_is_text(bundle, vision_eager):
    """As in the answer of a model that said it: Transformers embeds it by the table."""
    ids = torch.tensor([[65, 260, 260, 66, 260]])
    expected = embedded(vision_eager, ids)[0]
    features = np.full((1, 64), 7, np.float32)
    with Session(bundle, component="embed", threads=1) as session:
        for count in (0, 1):
            given = {"image_embeds": features[:count], "deepstack": features[None].repeat(2, 0)}
            given["deepstack"] = given["deepstack"][:, :count]
            made = session.run({"input_ids": ids.numpy(), **given})["inputs_embeds"][0]
            expected[1 : 1 + count] = 7
            assert np.array_equal(made, expected)


def test_golden_tensors_of_a_part_that_is_not_there_are_refused(bundle):
    golden = bundle.golden()
    odd = replace(golden, cases=(*golden.cases, replace(golden.cases[0], component="audio")))
    with pytest.raises(UnsafeInputError, match="know 'audio', the bundle does not"):
        validate(bundle, odd)


def test_golden_tensors_that_leave_a_part_out_are_refused(bundle):
    golden = bundle.golden()
    seen = tuple(case for case in golden.cases if case.component != "vision")
    with pytest.raises(UnsafeInputError, match="run decoder, embed and not 'vision'"):
        validate(bundle, replace(golden, cases=seen))


def test_the_decoder_is_measured_beside_the_eager_one(bundle, vision_source):
    peers = ("--against", "eager", "--source", vision_source)
    result = invoke("bench", bundle.path, *peers, "--seconds", 0.1, "--threads", 1, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["inputs"] == "golden case example of decoder"
    assert found["tokens"] > 0
    assert found["entries"][1]["difference"] < 1e-3  # that it is the same model; see validate


def test_arrays_go_to_the_part_that_takes_them(bundle, tmp_path):
    case = next(case for case in bundle.golden().cases if case.component == "vision")
    np.savez(tmp_path / "in.npz", **case.inputs)
    result = invoke("run", bundle.path, "--inputs", tmp_path / "in.npz", "--json")
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)["outputs"]) == {"image_embeds", "deepstack"}
    np.savez(tmp_path / "odd.npz", pixels=np.zeros(3))
    result = invoke("run", bundle.path, "--inputs", tmp_path / "odd.npz")
    assert result.exit_code == 2
    assert "no component takes pixels" in result.stderr


def test_plan_and_inspect_read_a_directory(vision_source, bundle):
    result = invoke("plan", vision_source, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    weights = sum((bundle.path / f"onnx/{c}.onnx.data").stat().st_size for c in ("decoder",))
    assert json.loads(result.stdout)["facts"]["weight_bytes"] > weights
    card = invoke("inspect", bundle.path)
    assert card.exit_code == 0
    for words in ("2 alike", "vision takes", "decoder gives", "unused tensors"):
        assert words in card.stdout


def changed(bundle: Path, **fields: object) -> None:
    """Other words in ``dialogue.json``, under digests that are right."""
    value = json.loads((bundle / FILE_NAME).read_text())
    put(bundle, FILE_NAME, json.dumps(value | fields).encode())


def test_a_dialogue_that_was_edited_is_refused(bundle, copied):
    spoiled = copied(bundle.path)
    path = spoiled / FILE_NAME
    path.write_text(path.read_text().replace("user", "USER"))
    result = invoke("run", spoiled, "--prompt", "hello")
    assert result.exit_code == 7
    assert FILE_NAME in result.stderr


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"positions": "spiral"}, "positions"),
        ({"max_length": 0}, "a length is less than 1"),
        ({"prompt": {"before": "", "after": ""}}, "no place for an image"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_dialogue_that_means_nothing_is_refused(bundle, copied, fields, words):
    spoiled = copied(bundle.path)
    changed(spoiled, **fields)
    result = invoke("run", spoiled, "--prompt", "hello")
    assert result.exit_code == 7
    assert words in result.stderr


def test_another_image_token_than_the_tokenizer_s_is_refused(bundle, copied):
    spoiled = copied(bundle.path)
    patches = json.loads((spoiled / FILE_NAME).read_text())["patches"]
    changed(spoiled, patches=patches | {"token_id": 5})
    with pytest.raises(UnsafeInputError, match="under another id than 5"):
        Generator(spoiled)


def test_a_model_whose_patches_nobody_makes_says_so(bundle, copied, photos):
    spoiled = copied(bundle.path)
    words = json.loads((spoiled / FILE_NAME).read_text())["prompt"]
    changed(spoiled, patches=None, no_images="it is blind", prompt=words | {"image": None})
    assert invoke("run", spoiled, "--prompt", "hello", "--max-new-tokens", 1).exit_code == 0
    result = invoke("run", spoiled, "--prompt", "hello", "--image", photos[0])
    assert result.exit_code == 3
    assert "not made ready as this model takes them: it is blind" in result.stderr


def test_an_image_s_token_in_the_words_is_refused(speaker, photos):
    for seen in ([], [speaker.see(photos[0])]):
        with pytest.raises(UsageError, match=r"<\|image_pad\|>.*part of an image"):
            speaker.encode("what is <|image_pad|>?", seen)


def test_a_prompt_with_no_room_for_an_answer_is_refused(speaker):
    with pytest.raises(UsageError, match="with one for the answer"):
        speaker.encode("x" * 1200)
