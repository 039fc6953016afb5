import json
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import moe_export
from moe_export.load import child, isolated, reader

FACTORIES = Path(__file__).parent / "factories"


@pytest.fixture(autouse=True)
def _own_path(monkeypatch, tmp_path):
    """Every test starts with the same importable modules and leaves no others behind."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(FACTORIES), *sys.path])
    yield
    for name in set(sys.modules) - known:
        origin = str(getattr(sys.modules[name], "__file__", None))
        if origin.startswith((str(tmp_path), str(FACTORIES))) or name.startswith("parcel"):
            del sys.modules[name]


@pytest.fixture
def in_process(monkeypatch):
    """Let the isolated reader run inside the test process: the same code in 10 ms, not in 3 s."""

    def ask(file, path):
        try:
            answer = isolated.describe(file)
        except Exception as error:
            raise child.refusal(path, f"{type(error).__name__}: {error}") from error
        return child.parse_answer(json.dumps(answer).encode(), path)

    monkeypatch.setattr(reader, "ask_child", ask)


@pytest.fixture
def loadable():
    import loadable

    return loadable


@pytest.fixture
def saved(tmp_path, loadable):
    """Save ``loadable``'s factory of that name at width 8; returns the model and the path."""

    def save(name="plain", **words):
        torch.manual_seed(0)
        model = getattr(loadable, name)(width=8)
        inputs = torch.arange(6).reshape(2, 3) if "tied" in name else torch.randn(2, 8)
        path = tmp_path / "model.pt"
        moe_export.save_checkpoint(
            model,
            path,
            **{
                "factory": f"loadable:{name}",
                "config": {"width": 8},
                "example_inputs": (inputs,),
                **words,
            },
        )
        return model.eval(), path

    return save


@pytest.fixture
def write_module(tmp_path):
    """Write a module's source into a folder of its own and return the folder."""

    def write(source, name="written.py", folder="code"):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return tmp_path / folder

    return write
