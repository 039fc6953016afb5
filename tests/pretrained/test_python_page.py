"""The blocks of docs/python-runtime.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import moe_export

PAGE = Path(__file__).parents[2] / "docs" / "python-runtime.md"


@pytest.fixture
def folder(bundle, photos, tmp_path, monkeypatch):
    (tmp_path / "model.moe").symlink_to(bundle.path)
    Image.open(photos[0]).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_runs(folder, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {"moe_export": moe_export})  # noqa: S102
        assert capsys.readouterr().out or "generate_batch" in block


def test_the_table_has_every_option_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    defaults = moe_export.Options()
    shown = {name: value for name, value in rows if name in moe_export.Options.__annotations__}
    assert shown.keys() == moe_export.Options.__annotations__.keys()
    for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed"):
        assert float(shown[name]) == getattr(defaults, name)
