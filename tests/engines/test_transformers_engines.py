"""A vision-language model of Transformers as engines, for every GPU that is built for here."""

from __future__ import annotations

import pytest

import moe_export
from moe_export import Bundle
from moe_export.engines.libraries import plugin_library
from moe_export.errors import MissingEnvironmentError
from pretrained_models import TEXT, save_qwen3_vl_moe

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

SMS = (80, 86, 89, 120)
COMPONENTS = {"vision", "embed", "decoder"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    try:
        plugin_library()
    except MissingEnvironmentError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    folder = tmp_path_factory.mktemp("transformers")
    save_qwen3_vl_moe(folder / "tiny-vl")
    return moe_export.export(
        folder / "tiny-vl",
        output=folder / "tiny-vl.moe",
        target="trt-rtx",
        precision="int4",
        dense_precision="bf16",
        sms=SMS,
        max_tokens=128,
        max_image_tokens=64,
    )


def test_every_component_has_an_engine_for_every_gpu(bundle: Bundle):
    made = {(engine.component, engine.sm) for engine in bundle.manifest.engines}
    assert made == {(component, sm) for component in COMPONENTS for sm in SMS}


def test_each_layer_s_router_and_experts_are_plugins_of_the_decoder(bundle: Bundle):
    names = bundle.component("decoder").plugins
    layers = TEXT["num_hidden_layers"]
    assert sum(name.endswith("/Router") for name in names) == layers
    assert sum(name.endswith("/Experts") for name in names) == layers
    assert not bundle.component("vision").plugins
    for engine in bundle.manifest.engines:
        text = (bundle.path / engine.plan).read_bytes()
        assert f"sm{engine.sm}".encode() in text
        if engine.component == "decoder":
            assert all(name.encode() in text for name in names)


def test_no_expert_was_taken_apart(bundle: Bundle):
    """An expert's matrices lie in the plan once, as int4, and nowhere as floats."""
    (engine,) = (e for e in bundle.manifest.engines if (e.component, e.sm) == ("decoder", 80))
    text = (bundle.path / engine.plan).read_bytes()
    # [E, 2I, H] = [8, 64, 64] and [E, H, I] = [8, 64, 32], in halves of a byte.
    layers = TEXT["num_hidden_layers"]
    for numbers in (8 * 64 * 64, 8 * 64 * 32):
        assert text.count(b"const_payload_size=%d " % (numbers // 2)) >= layers
        assert b"const_payload_size=%d " % (numbers * 4) not in text


def test_a_decoder_s_profiles_are_a_prompt_and_a_token(bundle: Bundle):
    engines = [e for e in bundle.manifest.engines if e.component == "decoder"]
    for engine in engines:
        prompt, token = engine.profiles
        assert prompt["past_key_0"][0][0] == 0
        assert prompt["inputs_embeds"][2][1] == 128
        assert token["inputs_embeds"][2][1] == 1
        assert token["past_key_0"][2][0] == 128
