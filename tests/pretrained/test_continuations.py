"""What a bundle goes on to say beside what Transformers says, and runs on a user's own inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moe_export.errors import UnsafeInputError
from moe_export.forms import IMAGE, PADDING, TEXT, Golden
from moe_export.runtime import Bundle
from moe_export.runtime.given import given_images
from moe_export.validate import validate
from pretrained.conftest import Eager, invoke, put
from pretrained_models import IDS

IMAGE_TOKEN = IDS["<|image_pad|>"]


@pytest.fixture(scope="module")
def golden(bundle: Bundle) -> Golden:
    return bundle.golden()


def test_what_is_recorded_is_what_transformers_says_behind_the_same_prompt(
    golden: Golden, vision_eager: Eager
) -> None:
    assert [each.name for each in golden.continuations] == ["text", "image"]
    for each in golden.continuations:
        ids = torch.from_numpy(each.asked.ids)
        seen = {name: torch.from_numpy(x) for name, x in each.asked.images.items()}
        assert bool(seen) == (each.name == "image")
        theirs = vision_eager.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == IMAGE_TOKEN).int(),
            **seen,
            max_new_tokens=len(each.tokens),
            min_new_tokens=len(each.tokens),
            eos_token_id=-1,
            do_sample=False,
            pad_token_id=0,
        )
        assert theirs[0, ids.shape[1] :].tolist() == list(each.tokens)
        assert each.log_probabilities.shape == (len(each.tokens), 5)
        assert (np.diff(each.log_probabilities, axis=1) <= 0).all()
        assert np.exp(each.log_probabilities).sum(axis=1).max() < 1


def test_tokens_are_of_the_image_where_their_ids_say_so(golden: Golden) -> None:
    asked = golden.continuations[1].asked
    assert np.array_equal(asked.modality == IMAGE, asked.ids == IMAGE_TOKEN)
    cases = {case.name: case for case in golden.cases if case.component == "decoder"}
    prompt = cases["prompt"].modality
    assert (prompt == IMAGE).sum(axis=1).tolist() == [6, 6]
    padded = cases["padded prompt"].modality
    assert padded[0, :2].tolist() == [PADDING] * 2
    assert np.array_equal(padded[1], prompt[1])
    assert cases["one token after padding"].modality.tolist() == [[TEXT], [TEXT]]
    for layer in cases["prompt"].layers.values():
        assert np.array_equal(layer.modality, prompt.ravel())


def test_the_report_has_loads_of_both_modalities_logits_and_continuations(bundle: Bundle) -> None:
    report = validate(bundle)
    assert {(load.layer, load.modality) for load in report.loads} == {
        (block.name, modality) for block in bundle.manifest.blocks for modality in ("text", "image")
    }
    for load in report.loads:
        assert sum(load.choices) == 2 * load.tokens
        assert len(load.choices) == 8
    assert {conflict.layer for conflict in report.conflicts} == {
        block.name for block in bundle.manifest.blocks
    }
    assert {each.case for each in report.logits} == {
        case.name for case in bundle.golden().cases if case.component == "decoder"
    }
    assert all(each.positions == 2 and each.same_top1 == 1.0 for each in report.logits)
    assert [(each.case, each.agreed, each.steps) for each in report.generation] == [
        ("text", 8, 8),
        ("image", 8, 8),
    ]
    files = bundle.manifest.files
    reports = sum(record.bytes for path, record in files.items() if path.startswith("reports/"))
    assert sum(report.nbytes.values()) + reports == sum(record.bytes for record in files.values())
    assert report.seconds.keys() == {"cases", "experts", "attribution", "engines", "generation"}


def test_the_report_in_the_bundle_knows_no_time(bundle: Bundle) -> None:
    kept = json.loads((bundle.path / "reports/parity.json").read_text())
    assert kept["seconds"] == {}
    assert len(kept["generation"]) == 2


def test_a_continuation_that_rounding_cannot_explain_fails_with_both_rankings(
    bundle: Bundle, golden: Golden
) -> None:
    text, image = golden.continuations
    likeliest = text.likeliest.copy()
    likeliest[3] = likeliest[3, ::-1]  # as if eager had said the fifth
    wrong = replace(text, likeliest=likeliest)
    report = validate(bundle, replace(golden, continuations=(wrong, image)))
    assert not report.passed
    first, second = report.generation
    assert (first.agreed, first.explained, second.explained) == (3, False, True)
    assert first.eager[0].token == likeliest[3, 0]
    assert first.bundle[0].token == text.likeliest[3, 0]
    assert [c.token for c in first.bundle] == text.likeliest[3].tolist()
    assert first.bundle[0].probability == pytest.approx(np.exp(text.log_probabilities[3, 0]))
    assert first.bundle[0].text


def test_a_continuation_that_no_component_can_say_is_refused(
    bundle: Bundle, golden: Golden
) -> None:
    components = {n: c for n, c in bundle.manifest.components.items() if n != "vision"}
    blind = replace(bundle, manifest=replace(bundle.manifest, components=components))
    cases = tuple(case for case in golden.cases if case.component != "vision")
    with pytest.raises(UnsafeInputError, match="a continuation, and the bundle has no 'vision'"):
        validate(blind, replace(golden, cases=cases))


def test_the_program_says_which_token_it_was(
    bundle: Bundle, golden: Golden, copied: Callable[[Path], Path]
) -> None:
    from moe_export.runtime.golden import golden_to_bytes

    text, image = golden.continuations
    likeliest = image.likeliest.copy()
    likeliest[0] = likeliest[0, ::-1]
    changed = replace(golden, continuations=(text, replace(image, likeliest=likeliest)))
    spoiled = copied(bundle.path)
    put(spoiled, "golden/golden.safetensors", golden_to_bytes(changed))
    result = invoke("validate", spoiled, "--junit", spoiled.parent / "parity.xml")
    assert result.exit_code == 4
    assert "image: 0 of 8 tokens agree; then eager says" in result.stdout
    assert "not explained by rounding" in result.stdout
    assert "and 1 continuation" in result.stderr
    assert (spoiled.parent / "parity.xml").read_text().count("<failure ") == 1


def test_a_rounded_bundle_goes_on_as_the_model_rounded_alike(rounded: Bundle) -> None:
    for each in validate(rounded).generation:
        assert each.explained


def test_a_model_of_text_alone_goes_on_from_words(text_source: Path, tmp_path: Path) -> None:
    output = tmp_path / "lm.moe"
    result = invoke("export", text_source, "-o", output)
    assert result.exit_code == 0, result.stderr
    report = json.loads(invoke("validate", output, "--json").stdout)
    assert [each["case"] for each in report["generation"]] == ["text"]
    assert {load["modality"] for load in report["loads"]} == {"text"}


def test_real_images_go_through_the_bundle_s_processor_and_both_models(
    bundle: Bundle, vision_source: Path, vision_eager: Eager, photos: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for photo in photos:
        (folder / photo.name).symlink_to(photo)
    result = invoke(
        "validate", bundle.path, "--source", vision_source, "--images", folder, "--json"
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["against"] == f"live {vision_source.name}, given inputs"
    names = {photo.name for photo in photos}
    components = ("vision", "embed", "decoder")
    cases = {f"{component}, {name}" for component in components for name in names}
    alone = {"every expert", "padded", "empty", "overloaded"}
    assert {tensor["case"] for tensor in report["tensors"]} == {*cases, *alone}
    assert {each["case"] for each in report["generation"]} == names
    # What is asked is what Transformers' own processor would have made of it.
    asked = given_images(bundle, photos).asked
    for photo in photos:
        theirs = vision_eager.prompt("What do you see?", [photo])
        assert np.array_equal(asked[photo.name].ids, theirs["input_ids"].numpy())
        pixels = theirs["pixel_values"].numpy()
        assert np.abs(asked[photo.name].images["pixel_values"] - pixels).max() < 1e-5


def live(bundle: Bundle, source: Path, *words: object) -> tuple[int, str]:
    result = invoke("validate", bundle.path, "--source", source, *words)
    return result.exit_code, result.stderr


def test_images_that_cannot_be_read_are_refused_by_name(
    bundle: Bundle, vision_source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    assert live(bundle, vision_source, "--images", folder)[0] == 2
    folder.mkdir()
    code, words = live(bundle, vision_source, "--images", folder)
    assert (code, "the folder is empty" in words) == (2, True)
    Image.new("RGB", (40, 40)).save(folder / "good.png")
    (folder / "torn.png").write_bytes((folder / "good.png").read_bytes()[:40])
    code, words = live(bundle, vision_source, "--images", folder)
    assert (code, "torn.png" in words) == (7, True)


def test_arrays_for_one_part_leave_the_others_not_run(
    bundle: Bundle, golden: Golden, vision_source: Path, tmp_path: Path
) -> None:
    case = next(case for case in golden.cases if case.component == "vision")
    np.savez(tmp_path / "mine.npz", **case.inputs)
    result = invoke(
        "validate", bundle.path, "--source", vision_source, "--inputs", tmp_path, "--json"
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert {tensor["case"] for tensor in report["tensors"]} == {"vision, mine"}
    assert report["not_run"] == {
        "component decoder": "no inputs were given for it",
        "component embed": "no inputs were given for it",
    }
