"""Updates of slices and of single places become choices, wherever they are known beforehand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from moe_export.capture.onnx_ops import translations
from moe_export.rewrite import torch_ops as _ops  # noqa: F401 - registers what the table names

SCATTERS = {"ScatterND", "ScatterElements"}


class Slice(nn.Module):
    def __init__(self, dim: int, start: int | None, end: int | None, step: int) -> None:
        super().__init__()
        self._where = dim, start, end, step

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        return torch.slice_scatter(x, update, *self._where)


class Place(nn.Module):
    def __init__(self, dim: int, index: int) -> None:
        super().__init__()
        self._where = dim, index

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        return torch.select_scatter(x, update, *self._where)


def _traced(module: nn.Module, x: Tensor, update: Tensor, axes: tuple = ({}, {})) -> ir.Model:
    program = torch.export.export(module, (x, update), dynamic_shapes=axes)
    made = torch.onnx.export(
        program, dynamo=True, verbose=False, custom_translation_table=translations()
    )
    assert made is not None
    return made.model


def _kinds(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


def _run(model: ir.Model, *arrays: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [given.name for given in session.get_inputs()]
    (made,) = session.run(None, {n: a.numpy() for n, a in zip(names, arrays, strict=True)})
    return made


def _require_a_choice(module: nn.Module, x: Tensor, update: Tensor) -> None:
    model = _traced(module, x, update)
    assert not _kinds(model) & SCATTERS
    np.testing.assert_array_equal(_run(model, x, update), module(x, update).numpy())


@pytest.mark.parametrize(
    ("dim", "start", "end", "step"),
    [
        (2, 1, 7, 3),
        (-1, 2, None, 2),
        (1, None, 3, 1),
        (1, -2, None, 1),
        (0, 1, 100, 1),
        (2, 5, 5, 1),
    ],
)
def test_a_slice_is_updated_without_a_scatter(dim, start, end, step):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    taken = [slice(None)] * 3
    taken[dim] = slice(start, end, step)
    update = torch.randn(x[tuple(taken)].shape)
    _require_a_choice(Slice(dim, start, end, step), x, update)


@pytest.mark.parametrize(("dim", "index"), [(0, 0), (1, -1), (-1, 3)])
def test_a_place_is_updated_without_a_scatter(dim, index):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    update = torch.randn(x.select(dim, index).shape)
    _require_a_choice(Place(dim, index), x, update)


def test_other_axes_may_have_any_size():
    torch.manual_seed(0)
    module, any_size = Slice(2, 1, 3, 1), {1: torch.export.Dim.DYNAMIC}
    model = _traced(module, torch.randn(3, 5, 8), torch.randn(3, 5, 2), (any_size, any_size))
    assert not _kinds(model) & SCATTERS
    x, update = torch.randn(3, 7, 8), torch.randn(3, 7, 2)
    np.testing.assert_array_equal(_run(model, x, update), module(x, update).numpy())


@pytest.mark.parametrize("any_size", [True, False])
@pytest.mark.parametrize(
    ("module", "shape"), [(Slice(1, 0, 2, 1), (3, 2, 8)), (Place(1, 1), (3, 8))]
)
def test_axes_of_any_size_and_long_ones_are_left_to_the_exporter(module, shape, any_size):
    torch.manual_seed(0)
    x, update = torch.randn(3, 5 if any_size else 600, 8), torch.randn(shape)
    axes = ({1: torch.export.Dim.DYNAMIC}, {}) if any_size else ({}, {})
    model = _traced(module, x, update, axes)
    assert _kinds(model) & SCATTERS
    np.testing.assert_array_equal(_run(model, x, update), module(x, update).numpy())
