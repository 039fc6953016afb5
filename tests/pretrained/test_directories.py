"""What may be read of a Transformers directory, and what is refused by name."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from moe_export.cli.options import default_output
from moe_export.errors import (
    MissingEnvironmentError,
    MoeExportError,
    UnsafeInputError,
    UnsupportedError,
    UsageError,
)
from moe_export.load import load
from moe_export.load.pretrained import dialogue_assets, read_directory
from moe_export.moe.families import FAMILIES, OUT_OF_REACH
from moe_export.spec import export_spec
from pretrained.conftest import invoke, save_qwen3_moe

Tensors = dict[str, torch.Tensor]
Spoil = Callable[[Path], None]

WEIGHTS = "model.safetensors"
EXPERT = "model.layers.0.mlp.experts.3.down_proj.weight"
NORM = "model.norm.weight"


def with_config(**fields: object) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def with_file(name: str, content: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(content)

    return spoil


def without(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def with_tensors(change: Callable[[Tensors], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        change(tensors)
        safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def renamed(tensors: Tensors) -> None:
    tensors["model.nrom.weight"] = tensors.pop(NORM)


def reshaped(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name][..., :-1].clone()

    return change


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


def sharded(shards: dict[str, str]) -> Spoil:
    """The weights under another name, and an index that names ``shards``."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": shards}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return spoil


# What is done to a good directory; the error; what it has to name.
REFUSALS: dict[str, tuple[Spoil, type[MoeExportError], str]] = {
    "an empty configuration": (
        with_file("config.json", ""),
        UnsafeInputError,
        "not a configuration",
    ),
    "a configuration of brackets": (
        with_file("config.json", "[" * 100_000),
        UnsafeInputError,
        "not a configuration",
    ),
    "no model_type": (with_file("config.json", "{}"), UnsafeInputError, "no model_type"),
    "an unknown model_type": (
        with_config(model_type="moebius"),
        UnsupportedError,
        "no model_type 'moebius'",
    ),
    "code of its own": (
        with_config(model_type="moebius", auto_map={"AutoModelForCausalLM": "evil.Model"}),
        UnsupportedError,
        "code that comes with a model is not run",
    ),
    "a wrong configuration": (with_config(hidden_size="wide"), UsageError, "hidden_size"),
    "more experts for a token than there are": (
        with_config(num_experts_per_tok=99),
        UsageError,
        "the model does not run",
    ),
    "a weight that is no number": (
        with_tensors(lambda tensors: tensors[NORM].fill_(float("nan"))),
        UnsafeInputError,
        "not finite",
    ),
    "quantised weights": (
        with_config(quantization_config={"quant_method": "fp8"}),
        UnsupportedError,
        "quantised already",
    ),
    "pickled weights": (pickled, UnsafeInputError, "pickled"),
    "no weights": (without(WEIGHTS), UsageError, "no weights"),
    "empty weights": (with_file(WEIGHTS, ""), UnsafeInputError, WEIGHTS),
    "weights cut short": (truncated, UnsafeInputError, WEIGHTS),
    "a missing tensor": (
        with_tensors(lambda tensors: tensors.pop(NORM)),
        UnsafeInputError,
        f"{NORM}' is missing",
    ),
    "a missing expert": (
        with_tensors(lambda tensors: tensors.pop(EXPERT)),
        UnsafeInputError,
        "model.layers.0.mlp.experts.down_proj' has another shape",
    ),
    "a renamed tensor": (with_tensors(renamed), UnsafeInputError, f"{NORM}' is missing"),
    "a tensor too many": (
        with_tensors(lambda tensors: tensors.update({"model.extra": torch.ones(3)})),
        UnsafeInputError,
        "'model.extra' is in the checkpoint and not in the model",
    ),
    "a misshapen tensor": (
        with_tensors(reshaped(NORM)),
        UnsafeInputError,
        f"{NORM}' has another shape",
    ),
    "a misshapen expert": (
        with_tensors(reshaped(EXPERT)),
        UnsafeInputError,
        "model.layers.0.mlp.experts.down_proj' cannot be put together",
    ),
    "a missing shard": (
        sharded({NORM: "model-00002-of-00002.safetensors"}),
        UnsafeInputError,
        "model-00002-of-00002.safetensors",
    ),
    "a shard elsewhere": (
        sharded({NORM: "../model-00002-of-00002.safetensors"}),
        UnsafeInputError,
        "no file beside it",
    ),
    "an index of nothing": (sharded({}), UnsafeInputError, "names no file"),
    "a broken tokenizer": (with_file("tokenizer.json", "{}"), UnsafeInputError, "tokenizer.json"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_is_refused_by_name(text_source, copied, name, capfd):
    spoil, kind, words = REFUSALS[name]
    folder = copied(text_source)
    spoil(folder)
    with pytest.raises(MoeExportError) as caught:
        load(export_spec(folder))
    assert type(caught.value) is kind, caught.value
    assert words in str(caught.value)
    assert capfd.readouterr().err == ""


def test_nothing_that_comes_with_a_model_is_run(text_source, copied):
    """Neither for a model_type that Transformers knows, nor for its tokenizer."""
    folder = copied(text_source)
    marker = folder / "was-run"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nModel = Tokenizer = None\n")
    with_config(auto_map={"AutoModelForCausalLM": "evil.Model"})(folder)
    path = folder / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": ["evil.Tokenizer", None]}
    settings = {"auto_map": auto_map, "tokenizer_class": "EvilTokenizer"}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    dialogue_assets(read_directory(folder), folder)
    assert not marker.exists()


def test_a_bundle_is_named_after_the_whole_folder(tmp_path, monkeypatch):
    folder = tmp_path / "Qwen3.5-35B"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for words in (str(folder), f"{folder}/", "."):
        assert default_output(words) == "Qwen3.5-35B.moe"


def test_the_page_lists_every_family():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    _, _, section = page.partition("### Transformers directories")
    listed = set(re.findall(r"`(\w+)`", section.partition("\n#")[0]))
    assert set(FAMILIES) <= listed


def test_example_inputs_are_not_for_a_directory(text_source):
    with pytest.raises(UsageError, match="needs neither example inputs nor dynamic shapes"):
        load(export_spec(text_source, example_inputs=(torch.zeros(1),)))


def test_without_transformers_the_extra_is_named(text_source, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingEnvironmentError, match=r"moe-export\[transformers\]"):
        load(export_spec(text_source))


def test_a_family_without_a_record_is_refused_before_its_weights_are_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / WEIGHTS)
    result = invoke("export", tmp_path, "-o", tmp_path / "out.moe")
    assert result.exit_code == 3
    assert "the family 'llava' is not built yet" in result.stderr
    assert "qwen3_vl_moe" in result.stderr


@pytest.mark.parametrize("family", OUT_OF_REACH)
def test_a_family_out_of_reach_is_refused_with_the_reason(family, tmp_path):
    import transformers

    assert family in transformers.CONFIG_MAPPING, "Transformers has it, and so somebody may try"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / WEIGHTS)
    result = invoke("export", tmp_path, "-o", tmp_path / "out.moe")
    assert result.exit_code == 3
    assert f"the family '{family}' cannot be exported: {OUT_OF_REACH[family]}" in result.stderr
    assert not (tmp_path / "out.moe").exists()


def test_layers_of_a_kind_that_is_not_known_are_refused(tmp_path):
    import transformers

    from pretrained_models import EXPERTS, TEXT

    layers = {"layer_types": ["conv", "full_attention"]}
    config = transformers.AutoConfig.for_model("lfm2_moe", **TEXT, **EXPERTS, **layers)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moe_export.load.pretrained.directory.KINDS", frozenset({"full_attention"}))
        with pytest.raises(UnsupportedError, match="layers of the kind 'conv'"):
            load(export_spec(tmp_path))


def test_an_index_of_whole_shards_is_read(text_source, copied):
    folder = copied(text_source)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for names, shard in zip(halves, shards, strict=True):
        half = {name: tensors[name] for name in names}
        safetensors.torch.save_file(half, folder / shard, metadata={"format": "pt"})
    where = {n: shard for names, shard in zip(halves, shards, strict=True) for n in names}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()
    whole, in_shards = read_directory(text_source).model, read_directory(folder).model
    assert torch.equal(whole.lm_head.weight, in_shards.lm_head.weight)


def test_half_precision_becomes_float32(tmp_path):
    """The weights as numbers are those of the file; sums are of float32."""
    save_qwen3_moe(tmp_path / "half")
    path = tmp_path / "half" / WEIGHTS
    tensors = {name: x.bfloat16() for name, x in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with_config(dtype="bfloat16")(tmp_path / "half")
    model = read_directory(tmp_path / "half").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.lm_head.weight, tensors["lm_head.weight"].float())


def dialogue_of(folder: Path) -> dict:
    return json.loads(dialogue_assets(read_directory(folder), folder)["dialogue.json"])


def test_a_dialogue_is_found_out_from_template_and_processor(vision_source):
    found = dialogue_of(vision_source)
    assert found["positions"] == "mrope"
    assert found["prompt"] == {
        "before": "<|im_start|>user\n",
        "image": "<|vision_start|><|image_pad|><|vision_end|>",
        "after": "<|im_end|>\n<|im_start|>assistant\n",
    }
    assert found["patches"]["token"] == "<|image_pad|>"  # noqa: S105 - a token of text
    assert (found["patches"]["min_pixels"], found["patches"]["max_pixels"]) == (256, 2304)


def test_a_processor_may_lie_in_one_file_with_its_parts(vision_source, copied):
    folder = copied(vision_source)
    alone = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    assert dialogue_of(folder)["patches"] is None
    parts = {"image_processor": alone, "processor_class": "Qwen3VLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(parts))
    assert dialogue_of(folder) == dialogue_of(vision_source)


def test_a_processor_that_leaves_a_step_out_is_imitated(vision_source, copied):
    folder = copied(vision_source)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_normalize": False}))
    found = dialogue_of(folder)["patches"]
    assert (found["mean"], found["std"]) == ([0, 0, 0], [1, 1, 1])


@pytest.mark.parametrize("change", [{"do_resize": False}, {"resample": 0}])
def test_a_processor_that_makes_other_patches_is_not_imitated(vision_source, copied, change):
    """The graphs are exported all the same, and the bundle answers about text."""
    folder = copied(vision_source)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = dialogue_of(folder)
    assert found["patches"] is None
    assert "its processor" in found["no_images"]
    assert found["prompt"]["image"] is None


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content[-1].text }}{% for p in messages[0].content[:-1] %}<|image_pad|>"
        "{% endfor %}",
        "{% if messages[0].content | length > 1 %}<|image_pad|>{% endif %}"
        "{{ messages[0].content[-1].text }}",
        "hello",
    ],
    ids=["behind the words", "one for all", "no words"],
)
def test_a_template_that_puts_images_elsewhere_is_refused(vision_source, copied, template):
    folder = copied(vision_source)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UnsupportedError, match="chat template"):
        load(export_spec(folder))


def test_a_template_that_fails_is_refused(vision_source, copied):
    folder = copied(vision_source)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('not like this') }}")
    with pytest.raises(UsageError, match="not like this"):
        load(export_spec(folder))


def test_a_directory_without_a_tokenizer_has_no_dialogue(text_source, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", WEIGHTS):
        shutil.copy(text_source / name, folder)
    assert dialogue_assets(read_directory(folder), folder) == {}
