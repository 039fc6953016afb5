"""Small bundles of every kind that the C++ runtime answers with."""

from __future__ import annotations

from pathlib import Path

import pytest

import moe_export
from bundle.toy import bigram_model
from bundle.toy import export as export_toy
from families.catalogue import Case
from moe_export.runtime import Bundle
from pretrained.conftest import save_qwen3_moe
from pretrained_models import save_qwen3_vl_moe, tokenizer


def exported(source: Path) -> Bundle:
    return moe_export.export(str(source), output=source.with_suffix(".moe"))


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A Qwen3-VL with experts: vision, embed and decoder, positions on three axes."""
    folder = tmp_path_factory.mktemp("embed-vision") / "tiny-vl"
    save_qwen3_vl_moe(folder)
    return exported(folder)


@pytest.fixture(scope="session")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A Qwen3 with experts, which knows text alone."""
    folder = tmp_path_factory.mktemp("embed-text") / "tiny-lm"
    save_qwen3_moe(folder)
    return exported(folder)


@pytest.fixture(scope="session")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model with linear attention, whose state cannot be cut back."""
    folder = tmp_path_factory.mktemp("embed-recurrent") / "tiny-next"
    Case("qwen3_next", "text").save(folder)
    tokenizer().save_pretrained(folder)
    return exported(folder)


@pytest.fixture(scope="session")
def referring(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model that attends to all of its prompt, and to six tokens of what follows."""
    folder = tmp_path_factory.mktemp("embed-referring") / "tiny-ocr"
    Case("unlimited_ocr", "vision").save(folder)
    tokenizer().save_pretrained(folder)
    return exported(folder)


@pytest.fixture(scope="session")
def hashing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model that looks up n-grams: its decoder is told ids, and carries the last of them."""
    folder = tmp_path_factory.mktemp("embed-hashing") / "tiny-ngrams"
    Case("qwen4_exp_text", "text").save(folder)
    tokenizer().save_pretrained(folder)
    return exported(folder)


@pytest.fixture(scope="session")
def bigram(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One graph that is run again for each token, and takes an image."""
    path = tmp_path_factory.mktemp("embed-bigram") / "bundle"
    export_toy(bigram_model(), path)
    return Bundle.open(path)
