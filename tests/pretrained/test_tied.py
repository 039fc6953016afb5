"""Tied embeddings: the table of tokens and the head's matrix are one, and stored once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import moe_export
from moe_export.card import bundle_card
from moe_export.errors import UsageError
from moe_export.runtime import Bundle, Conversation, Session
from pretrained.conftest import Eager, invoke
from pretrained_models import EXPERTS, TEXT, lively, tokenizer

LENGTH = 12
# Of rows of 64 numbers, not a multiple of a panel's 16.
ROWS = 330
TABLE_BYTES = 4 * 64 * ROWS
DECODER, EMBED = "onnx/decoder.onnx.data", "onnx/embed.onnx.data"


def save(folder: Path, *, tied: bool) -> None:
    import transformers

    sizes = {**TEXT, **EXPERTS, "num_hidden_layers": 1, "vocab_size": ROWS}
    config = transformers.AutoConfig.for_model("qwen3_moe", **sizes, tie_word_embeddings=tied)
    model = lively(transformers.AutoModelForCausalLM.from_config(config))
    model.generation_config.eos_token_id = TEXT["eos_token_id"]
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tied") / "tied-lm"
    save(folder, tied=True)
    return folder


@pytest.fixture(scope="module")
def eager(source) -> Eager:
    return Eager(source)


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory) -> Callable[..., Bundle]:
    """By target, precision of the experts and of the rest, each once."""
    folder = tmp_path_factory.mktemp("bundles")

    @cache
    def export(target: str, precision: str = "f32", dense: str = "f32") -> Bundle:
        return moe_export.export(
            source,
            output=folder / f"{target}-{precision}-{dense}.moe",
            target=target,
            precision=precision,
            dense_precision=dense,
        )

    return export


targets = pytest.mark.parametrize("target", ["ort", "standard"])
each = pytest.mark.parametrize(
    "words",
    [("ort",), ("standard",), ("ort", "bf16"), ("ort", "f32", "int8"), ("standard", "f32", "int8")],
    ids="-".join,
)


def stored(bundle: Bundle) -> dict[str, int]:
    files = bundle.manifest.files
    return {path: files[path].bytes for path in files if path.endswith(".data")}


@each
def test_the_table_is_stored_once_unless_the_head_is_rounded(exported, words):
    bundle = exported(*words)
    embed, bytes_ = bundle.manifest.components["embed"], stored(bundle)[EMBED]
    assert (bytes_, embed.also_reads) == (
        (TABLE_BYTES, ()) if words[2:] == ("int8",) else (0, (DECODER,))
    )
    assert bundle.manifest.components["decoder"].also_reads == ()


@targets
def test_an_untied_model_stores_that_much_more(exported, tmp_path, target):
    save(tmp_path / "model", tied=False)
    apart = moe_export.export(tmp_path / "model", output=tmp_path / "apart.moe", target=target)
    assert apart.manifest.components["embed"].also_reads == ()
    assert stored(apart) == {**stored(exported(target)), EMBED: TABLE_BYTES}


@each
def test_rows_are_the_table_s_to_the_bit(exported, eager, words):
    table = eager.model.get_input_embeddings().weight.detach().numpy()
    with Session(exported(*words), component="embed") as embed:
        made = embed.run({"input_ids": np.arange(ROWS)[None]})["inputs_embeds"]
        assert made.tobytes() == table.tobytes()
        for wrong in (ROWS, 336, 10**6):
            with pytest.raises(UsageError, match="cannot run on these values"):
                embed.run({"input_ids": np.array([[wrong]])})


@targets
@pytest.mark.parametrize("words", ["x", "what is it?"])
def test_it_answers_what_transformers_answers(exported, eager, target, words):
    speaker = Conversation(exported(target), threads=1)
    ours = list(speaker.tokens(speaker.encode(words), max_new_tokens=LENGTH))
    assert ours == eager.answer(words, length=LENGTH)


@each
def test_it_validates_and_says_what_it_weighs(exported, source, words):
    bundle = exported(*words)
    result = invoke("validate", bundle.path, "--source", source)
    assert result.exit_code == 0, result.stderr
    card = bundle_card(bundle)
    assert card.weight_bytes == sum(stored(bundle).values())
    files = [path for path in bundle.path.rglob("*") if path.is_file()]
    assert card.bundle.bytes == sum(path.stat().st_size for path in files)
