"""Numbers in files: quantised weights are computed once and are what the quantiser makes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from moe_export import ondisk
from moe_export.errors import MemoryBudgetError
from moe_export.lazy import LazyTensor, real
from moe_export.moe.quantize import parse_precision, quantize, quantize_to_bytes
from moe_export.ondisk import Spool

PRECISIONS = ("bf16", "f16", "int8", "int8:32+zeros", "int4", "int4:64+zeros")


@pytest.mark.parametrize("shape", [(40, 70), (3, 10, 33)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_kept_weight_is_the_quantised_one(
    precision: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    chosen = parse_precision(precision)
    parts = Spool(tmp_path).quantized("w", weight, chosen)
    expected = quantize(weight.numpy(), chosen)
    for name in ("values", "scales", "zeros"):
        array = getattr(expected, name)
        assert (name in parts) == (array is not None)
        if array is not None:
            made = real(parts[name]).float().numpy()
            np.testing.assert_array_equal(made, array.astype(np.float32))
    assert list(tmp_path.iterdir()) == []  # the file has no name, and goes with the process


@dataclass(frozen=True)
class Rows:
    """A reader that says what was read."""

    tensor: torch.Tensor
    read: list[tuple[int, int]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        self.read.append((start, stop))
        return self.tensor[start:stop].clone()


@pytest.fixture(params=[1, 2])
def cores(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_pieces_on_several_cores_make_the_same_bytes(
    precision: str,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.randn((7, 5, 70), generator=torch.Generator().manual_seed(2)).to(dtype)
    monkeypatch.setattr(ondisk, "_PIECE_BYTES", 2 * 5 * 70 * dtype.itemsize)
    reader = Rows(weight)
    parts = Spool(tmp_path).quantized("w", LazyTensor(reader), parse_precision(precision))
    assert sorted(reader.read) == [(0, 2), (2, 4), (4, 6), (6, 7)]
    expected = quantize_to_bytes(weight.float().numpy(), parse_precision(precision))
    for part, stored in parts.items():
        array = getattr(expected, part)
        made = real(stored).contiguous().view(torch.uint8).numpy()
        np.testing.assert_array_equal(made, array.view(np.uint8))


@pytest.mark.usefixtures("cores")
def test_the_first_number_that_is_refused_is_named_on_several_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.zeros((40, 64))
    weight[9, 3], weight[33, 0] = -torch.inf, torch.nan
    monkeypatch.setattr(ondisk, "_PIECE_BYTES", 64 * 4)
    with pytest.raises(ValueError, match=r"^a weight holds -inf$"):
        Spool(tmp_path).quantized("w", LazyTensor(Rows(weight)), parse_precision("int4"))


def test_a_weight_is_quantised_once_for_each_precision(tmp_path: Path) -> None:
    spool, weight = Spool(tmp_path), torch.randn(4, 32)
    one = spool.quantized("w", weight, parse_precision("int8"))
    assert spool.quantized("w", weight, parse_precision("int8")) is one
    assert spool.quantized("w", weight, parse_precision("int4")) is not one
    assert spool.quantized("v", weight, parse_precision("int8")) is not one


def test_a_full_disk_is_told_with_the_folder_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MemoryBudgetError, match="No space left") as refusal:
        Spool(tmp_path).quantized("w", torch.ones(2, 2), parse_precision("int8"))
    assert refusal.value.where == str(tmp_path)


def test_a_number_that_the_format_does_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1e\\+20, which f16 does not"):
        Spool(tmp_path).quantized("w", torch.full((2, 2), 1e20), parse_precision("f16"))
