"""Small Transformers directories, real photographs, and what Transformers itself answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from moe_export import pipeline
from moe_export.cli import program
from moe_export.load import load
from moe_export.manifest import FILE_NAME, FileRecord, Manifest
from moe_export.rewrite import rewrite
from moe_export.runtime import Bundle
from moe_export.spec import export_spec
from pretrained_models import EXPERTS, TEXT, lively, save_qwen3_vl_moe, tokenizer


@pytest.fixture(scope="session")
def vision_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL with experts, its tokenizer and its processor."""
    folder = tmp_path_factory.mktemp("vision") / "tiny-vl"
    save_qwen3_vl_moe(folder)
    return folder


@pytest.fixture(scope="session")
def text_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 with experts, which knows text alone, and its tokenizer."""
    folder = tmp_path_factory.mktemp("text") / "tiny-lm"
    save_qwen3_moe(folder)
    return folder


def save_qwen3_moe(folder: Path) -> None:
    import transformers

    sizes = {**TEXT, **EXPERTS, "num_hidden_layers": 1}
    config = transformers.AutoConfig.for_model("qwen3_moe", **sizes)
    model = lively(transformers.AutoModelForCausalLM.from_config(config))
    model.generation_config.eos_token_id = TEXT["eos_token_id"]
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


class Eager:
    """A directory as Transformers itself runs it: the judge of what a bundle answers."""

    def __init__(self, folder: Path) -> None:
        import transformers

        config = json.loads((folder / "config.json").read_text())
        sees = "vision_config" in config
        kind = "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"
        self.model: Any = getattr(transformers, kind).from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.processor: Any = None
        if sees:
            self.processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")

    def prompt(self, words: str, images: Sequence[Path] = ()) -> dict[str, torch.Tensor]:
        """What ``generate`` takes: the chat template's text, and images by the processor."""
        parts: list[Any] = [{"type": "image"}] * len(images) + [{"type": "text", "text": words}]
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": parts if self.processor is not None else words}],
            add_generation_prompt=True,
            tokenize=False,
        )
        if not images:
            return self._tokens(text)
        from PIL import Image

        seen = self.processor(images=[Image.open(image) for image in images], return_tensors="pt")
        pad, merge = "<|image_pad|>", self.processor.merge_size**2
        first, *others = text.split(pad)
        for grid, other in zip(seen["image_grid_thw"], others, strict=True):
            first += pad * (int(grid.prod()) // merge) + other
        tokens = self._tokens(first)
        is_image = tokens["input_ids"] == self.model.config.image_token_id
        return {**tokens, **seen, "mm_token_type_ids": is_image.int()}

    def _tokens(self, text: str) -> dict[str, torch.Tensor]:
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def answer(self, words: str, images: Sequence[Path] = (), *, length: int) -> list[int]:
        """The ids of ``length`` tokens at most, greedily, without the one that ends it."""
        prompt = self.prompt(words, images)
        made = self.model.generate(**prompt, max_new_tokens=length, do_sample=False, pad_token_id=0)
        ids: list[int] = made[0, prompt["input_ids"].shape[1] :].tolist()
        return ids[:-1] if ids[-1] == TEXT["eos_token_id"] else ids

    def text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


@pytest.fixture(scope="session")
def vision_eager(vision_source: Path) -> Eager:
    return Eager(vision_source)


@pytest.fixture(scope="session")
def text_eager(text_source: Path) -> Eager:
    return Eager(text_source)


@pytest.fixture(scope="session")
def exported(vision_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """By precision, once for all tests that only read.

    Exported by the program, which loads and proves the model for the first of them alone: these
    two stages hear nothing of a precision.
    """
    folder = tmp_path_factory.mktemp("bundles")
    loaded = cache(lambda: load(export_spec(vision_source)))
    marked = cache(lambda: rewrite(loaded()))
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load", lambda _: loaded())
        patch.setattr(pipeline, "rewrite", lambda _: marked())
        for precision in ("f32", "bf16"):
            output = folder / f"{precision}.moe"
            result = invoke("export", vision_source, "-o", output, "--precision", precision)
            assert result.exit_code == 0, result.stderr
            assert result.stderr == "", "Transformers' bars and reports are not ours to show"
            made[precision] = Bundle.open(output)
    return made


@pytest.fixture(scope="session")
def bundle(exported: dict[str, Bundle]) -> Bundle:
    return exported["f32"]


@pytest.fixture(scope="session")
def rounded(exported: dict[str, Bundle]) -> Bundle:
    return exported["bf16"]


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a directory or bundle that a test may spoil."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / folder.name))


def put(bundle: Path, name: str, content: bytes) -> None:
    """Put other bytes for a file of a bundle, with every digest rewritten to match."""
    manifest = Manifest.from_json((bundle / FILE_NAME).read_bytes())
    (bundle / name).write_bytes(content)
    record = FileRecord(sha256=sha256(content).hexdigest(), bytes=len(content))
    changed = replace(manifest, files={**manifest.files, name: record})
    (bundle / FILE_NAME).write_text(changed.to_json())


def invoke(*words: object) -> Result:
    """Run a command line in this process."""
    return CliRunner().invoke(program, [str(word) for word in words])
