"""Runs beside each other: what each gives alone, and each matrix read once for all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_export.lazy import LazyTensor, Promise, grouped_product, real, together

EXPERTS, WIDTH = 6, 8


@dataclass(frozen=True, eq=False)
class Counted:
    """The reader of a tensor that counts how often each row of its leading axis is read."""

    tensor: Tensor
    reads: dict[int, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        for row in range(start, stop):
            self.reads[row] = self.reads.get(row, 0) + 1
        return self.tensor[start:stop]


class Model:
    """Two layers of a dense matrix and experts that are looped over, all lazy."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.readers = [
            (Counted(torch.randn(WIDTH, WIDTH)), Counted(torch.randn(EXPERTS, WIDTH, WIDTH)))
            for _ in range(2)
        ]

    def run(self, x: Tensor, experts: list[int]) -> Tensor:
        for dense, stacked in self.readers:
            x = F.linear(x, LazyTensor(dense).to(x.dtype))
            weight = LazyTensor(stacked).to(x.dtype)
            for expert in experts:
                x = x + F.linear(x, weight[expert]).tanh()
        return x

    @property
    def reads(self) -> list[int]:
        return [n for pair in self.readers for reader in pair for n in reader.reads.values()]


def inputs() -> list[tuple[Tensor, list[int]]]:
    torch.manual_seed(4)
    every = list(range(EXPERTS))
    rows = [torch.randn(3, WIDTH), torch.randn(1, WIDTH), torch.randn(5, WIDTH).double()]
    return list(zip(rows, (every, [1, 4], [0, 4, 5]), strict=True))


def test_each_run_gives_what_it_gives_alone_but_for_the_order_of_sums() -> None:
    alone = [Model().run(*given) for given in inputs()]
    model = Model()
    made = together([lambda g=g: model.run(*g) for g in inputs()])
    for one, other in zip(alone, made, strict=True):
        assert one.dtype is other.dtype
        assert (one - other).abs().max() <= 64 * torch.finfo(one.dtype).eps * one.abs().max()


def test_the_same_runs_give_the_same_bits() -> None:
    made = []
    for _ in range(2):
        model = Model()
        made.append(together([lambda g=g, m=model: m.run(*g) for g in inputs()]))
    for one, other in zip(*made, strict=True):
        assert torch.equal(one, other)


def test_what_several_runs_meet_is_read_once() -> None:
    model = Model()
    for given in inputs():
        model.run(*given)
    assert max(model.reads) == 3
    model = Model()
    together([lambda g=g: model.run(*g) for g in inputs()])
    assert set(model.reads) == {1}


def test_a_run_that_starts_in_the_middle_waits_for_the_first_to_come_by() -> None:
    model = Model()
    first, *_ = inputs()
    _, stacked = model.readers[1]

    def last_experts() -> list[Tensor]:
        x = torch.ones(2, WIDTH)
        return [F.linear(x, LazyTensor(stacked)[expert]) for expert in range(EXPERTS)]

    runs: list[Callable[[], object]] = [lambda: model.run(*first), last_experts]
    together(runs)
    assert set(model.reads) == {1}


def test_experts_of_several_runs_are_read_once() -> None:
    torch.manual_seed(5)
    reader = Counted(torch.randn(EXPERTS, 4, WIDTH))
    offsets = [[0, 2, 2, 3, 3, 3, 4], [0, 0, 1, 5, 5, 6, 6]]
    rows = [torch.randn(7, WIDTH), torch.randn(6, WIDTH).double()]

    def run(place: int) -> Tensor:
        return grouped_product(rows[place], offsets[place], LazyTensor(reader))

    made = together([lambda: run(0), lambda: run(1)])
    assert set(reader.reads.values()) == {1}
    assert 3 not in reader.reads  # no run has rows for it
    for x, ends, y in zip(rows, offsets, made, strict=True):
        expected = x.new_zeros(len(x), 4)
        for expert in range(EXPERTS):
            start, stop = ends[expert : expert + 2]
            expected[start:stop] = x[start:stop] @ reader.tensor[expert].to(x.dtype).t()
        torch.testing.assert_close(y, expected)


def test_a_run_waits_for_what_another_promises() -> None:
    promise: Promise[int] = Promise()
    heard = []

    def waits() -> None:
        heard.append(promise.get())

    together([waits, lambda: promise.keep(7)])
    assert heard == [7]


def test_a_promise_that_nobody_keeps_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(AssertionError, match="none of them gives"):
        together([Promise().get, Promise().get])
    with pytest.raises(AssertionError, match="no run before it"):
        Promise().get()


def test_what_one_run_raises_ends_all_of_them() -> None:
    before = threading.active_count()
    model, ended = Model(), []

    def goes_on() -> None:
        try:
            model.run(*inputs()[0])
        finally:
            ended.append(True)

    def fails() -> None:
        real(F.linear(torch.ones(1, WIDTH), LazyTensor(model.readers[0][0])))
        raise ValueError("a run that fails")

    with pytest.raises(ValueError, match="a run that fails"):
        together([goes_on, fails])
    assert ended == [True]
    assert threading.active_count() <= before + torch.get_num_threads()  # workers for slices stay


def test_the_number_of_threads_is_what_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # runs have one each
    try:
        together([lambda: None, lambda: None])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
