"""What docs/checkpoints.md shows, runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moe_export.load import load
from moe_export.load.layout import DTYPES, FORMAT, HEADER, SECTIONS, VERSION
from moe_export.spec import export_spec

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()


@pytest.fixture
def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_example_of_the_docs_saves_and_loads(blocks, tmp_path, in_process):
    module, script = blocks
    (tmp_path / "my_models.py").write_text(module)
    (tmp_path / "train.py").write_text(script)
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)
    loaded = load(export_spec(tmp_path / "model.pt", python_path=[tmp_path]))
    assert loaded.dynamic_shapes == {"x": {0: "batch"}}
    assert loaded.assets == {"labels.txt": b"no\nyes\n"}
    assert loaded.module(torch.ones(3, 16)).shape == (3, 2)


def test_the_docs_name_every_key_and_dtype_of_the_format():
    keys = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert keys == [*HEADER, *SECTIONS]
    assert f"`{FORMAT}`" in PAGE
    assert f"version {VERSION}\n" in PAGE
    listed = re.search(r"The dtypes are (.*?)\.\n", PAGE, flags=re.DOTALL).group(1)
    assert re.findall(r"`(\w+)`", listed) == list(DTYPES)
