"""Tensors that are read when they are needed: equal to what they stand for, in little memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_export.lazy import LazyTensor, in_memory, is_lazy, real, slices, twin_of, without_numbers


@dataclass(frozen=True, eq=False)
class Counted:
    """The reader of a tensor that counts the numbers it hands out."""

    tensor: Tensor
    read: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        rows = self.tensor[start:stop] if self.shape else self.tensor
        self.read.append(rows.numel())
        return rows


def lazily(tensor: Tensor) -> tuple[LazyTensor, list[int]]:
    reader = Counted(tensor)
    return LazyTensor(reader), reader.read


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x[...],
    "a cast": lambda x: x.to(torch.float64),
    "an entry": lambda x: x[1],
    "the last entry": lambda x: x[-1],
    "some entries": lambda x: x[1:3],
    "a column": lambda x: x[..., 2],
    "every other column": lambda x: x[..., ::2],
    "turned round": lambda x: x.transpose(-1, -2),
    "leading axes exchanged": lambda x: x.transpose(0, 1).contiguous(),
    "permuted": lambda x: x.permute(0, 2, 1),
    "flat rows": lambda x: x.reshape(4, -1),
    "flat": lambda x: x.reshape(-1),
    "a new axis": lambda x: x.unsqueeze(0),
    "a new axis inside": lambda x: x.unsqueeze(1),
    "half of the columns": lambda x: x.chunk(2, dim=-1)[1],
    "a half": lambda x: x.chunk(2)[1],
    "stacked": lambda x: torch.stack([x, x]),
    "stacked inside": lambda x: torch.stack([x, x], dim=1),
    "joined": lambda x: torch.cat([x, x[:1]]),
    "joined inside": lambda x: torch.cat([x, x], dim=1),
    "taken apart and joined": lambda x: torch.stack([row.t() for row in x.unbind(0)]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_reads_nothing_and_means_the_same(name: str) -> None:
    x = torch.arange(4 * 3 * 6.0).reshape(4, 3, 6)
    given, read = lazily(x)
    made, expected = LAYOUTS[name](given), LAYOUTS[name](x)
    assert is_lazy(made)
    assert read == []
    assert (made.shape, made.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(real(made), expected, rtol=0, atol=0)
    rows = torch.cat([piece.reshape(-1) for piece in slices(made, 40)])
    torch.testing.assert_close(rows, expected.reshape(-1), rtol=0, atol=0)


def test_a_product_reads_its_matrix_in_slices() -> None:
    matrix = torch.randn(8192, 128)
    given, read = lazily(matrix)
    x, bias = torch.randn(2, 5, 128), torch.randn(8192)
    with torch.no_grad():
        made = F.linear(x, given, bias)
    torch.testing.assert_close(made, F.linear(x, matrix, bias))
    assert sum(read) == matrix.numel()
    assert max(read) <= 1 << 19


def test_rows_that_do_not_lie_together_meet_it_in_slices_too() -> None:
    matrix = torch.randn(4096, 128)
    given, read = lazily(matrix)
    last = torch.randn(2, 5, 128)[:, -1:]  # the last token of each text, as a head takes it
    with torch.no_grad():
        made = F.linear(last, given)
    torch.testing.assert_close(made, F.linear(last, matrix))
    assert max(read) <= 1 << 19


@dataclass(frozen=True)
class Doubling(Counted):
    """A reader whose matrix meets twice the rows."""

    def meet(self, rows: Tensor) -> Tensor:
        return 2 * rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [slice(None), slice(-1, None)])
def test_a_matrix_says_what_becomes_of_rows_that_meet_it(tokens: slice, dtype: torch.dtype) -> None:
    matrix, x = torch.randn(6, 8), torch.randn(3, 5, 8, dtype=dtype)[:, tokens]
    with torch.no_grad():
        made = F.linear(x, LazyTensor(Doubling(matrix)).to(dtype))
    torch.testing.assert_close(made, F.linear(2 * x, matrix.to(dtype)))


def test_one_expert_of_many_is_read_alone() -> None:
    experts = torch.randn(8, 16, 32)
    given, read = lazily(experts)
    x = torch.randn(3, 16)
    with torch.no_grad():
        made = F.linear(x, given.transpose(1, 2)[5])
    torch.testing.assert_close(made, x @ experts[5])
    assert read == [16 * 32]


def test_an_embedding_reads_each_row_once() -> None:
    table = torch.randn(1000, 4)
    given, read = lazily(table)
    ids = torch.tensor([[7, 7, 3], [999, 3, 7]])
    torch.testing.assert_close(F.embedding(ids, given), table[ids])
    assert read == [4, 4, 4]


def test_what_has_no_slices_gets_all_of_it() -> None:
    given, _ = lazily(torch.arange(6.0))
    assert float(given.sum()) == 15
    assert torch.equal(given * 2, torch.arange(6.0) * 2)


def test_shapes_are_looked_at_before_anything_is_read() -> None:
    one, other = lazily(torch.zeros(2, 3))[0], lazily(torch.zeros(3, 3))[0]
    with pytest.raises(RuntimeError, match="stack"):
        torch.stack([one, other])


def test_writing_is_refused() -> None:
    given, _ = lazily(torch.zeros(3))
    with pytest.raises(RuntimeError, match="only read"):
        given.add_(1)


class Model(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8, bias=False)
        self.other = nn.Linear(8, 8, bias=False)
        self.one.weight = nn.Parameter(weight, requires_grad=False)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(x))


def test_twins_cost_no_memory_and_stay_tied() -> None:
    weight, x = torch.randn(8, 8), torch.randn(2, 8)
    given, read = lazily(weight)
    model = Model(given)
    twin = twin_of(model, torch.float64)
    assert read == []
    assert twin.one.weight is twin.other.weight
    assert twin.one.weight.dtype is torch.float64
    expected = Model(weight).double()(x.double())
    torch.testing.assert_close(twin(x.double()), expected, rtol=1e-14, atol=1e-14)
    assert is_lazy(copy.deepcopy(model).one.weight)
    assert not is_lazy(in_memory(model).one.weight)
    shell = without_numbers(model)
    assert shell.one.weight is shell.other.weight
    assert shell.one.weight.untyped_storage().nbytes() == 4


def test_inference_mode_may_be_on() -> None:
    given, _ = lazily(torch.randn(4, 8, 8))
    model = Model(given[1])
    with torch.inference_mode():
        assert model(torch.zeros(1, 8)).shape == (1, 8)
