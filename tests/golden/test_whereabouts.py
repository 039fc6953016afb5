"""Where classes are written is said without a word of the machine, and only where it is known."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from moe_export.capture.whereabouts import whereabouts


class Block(nn.Module):
    """Stands in this file."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])


def line_of(kind: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return lines.index(f"class {kind}(nn.Module):") + 1


def test_a_module_and_all_that_hold_it_have_a_file_and_a_line() -> None:
    found = whereabouts(Model(), ["layers.1"])
    file = Path(__file__).name
    assert found == {"": f"{file}:{line_of('Model')}", "layers.1": f"{file}:{line_of('Block')}"}


def test_the_model_itself_is_there_where_it_has_no_blocks() -> None:
    assert whereabouts(Model(), []) == {"": f"{Path(__file__).name}:{line_of('Model')}"}


def test_a_block_that_is_the_whole_model_has_the_empty_path() -> None:
    assert whereabouts(Block(), [""]) == {"": f"{Path(__file__).name}:{line_of('Block')}"}


def test_classes_of_torch_and_of_no_file_are_left_out() -> None:
    typed = type("Typed", (nn.Module,), {"__module__": "a_notebook"})
    assert whereabouts(nn.Sequential(typed(), nn.ReLU()), ["0", "1"]) == {}
