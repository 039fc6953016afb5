"""PyTorch: the loop over experts of eager models, and its grouped matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from layer_engines import Job, LeftOutError
from layer_problem import Array, Step, expert_weights

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
Weights = tuple[torch.Tensor, torch.Tensor]
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Any]

# The two engines read the same tensors: a process loads them once.
_loaded: dict[Job, list[Weights]] = {}


def forget() -> None:
    """Free the weights."""
    _loaded.clear()


def load(job: Job) -> list[Weights]:
    """``gate_up [E, 2I, H]`` and ``down [E, H, I]`` of each copy."""
    if job.precision not in _DTYPES:
        raise LeftOutError(f"PyTorch has no {job.precision} experts on CPUs")
    if job not in _loaded:
        forget()
        _loaded[job] = [_stacked(job, copy) for copy in range(job.copies)]
    return _loaded[job]


def _stacked(job: Job, copy: int) -> Weights:
    layer, dtype = job.layer, _DTYPES[job.precision]
    gate_up = torch.empty(layer.experts, 2 * layer.intermediate, layer.hidden, dtype=dtype)
    down = torch.empty(layer.experts, layer.hidden, layer.intermediate, dtype=dtype)
    for expert in range(layer.experts):
        for stack, matrix in zip((gate_up, down), expert_weights(layer, copy, expert), strict=True):
            stack[expert] = torch.from_numpy(matrix)
    return gate_up, down


class _Torch:
    def __init__(self, job: Job, forward: Forward) -> None:
        torch.set_num_threads(job.threads)
        self._weights = load(job)
        self._dtype = _DTYPES[job.precision]
        self._forward = forward
        self.bytes_per_expert = job.layer.parameters * self._dtype.itemsize

    def prepare(self, step: Step) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        rows = zip(step.x, step.topk_ids, step.topk_weights, strict=True)
        return [
            (
                torch.from_numpy(x).to(self._dtype),
                torch.from_numpy(ids).long(),
                torch.from_numpy(weights).to(self._dtype),
            )
            for x, ids, weights in rows
        ]

    def run(self, prepared: Any) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [
                self._forward(*given, *weights)
                for given, weights in zip(prepared, self._weights, strict=True)
            ]

    def first(self, result: list[torch.Tensor]) -> Array:
        return result[0].double().numpy()

    def matrices(self, expert: int) -> tuple[Array, Array]:
        gate_up, down = (stack[expert].double().numpy() for stack in self._weights[0])
        return gate_up, down


class TorchEager(_Torch):
    """As Transformers' models are written: one expert after the other."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, _eager)


class TorchGrouped(_Torch):
    """As Transformers' ``grouped_mm`` experts: tokens sorted by expert, two grouped products."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, _grouped)


def _eager(
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    y = torch.zeros_like(x)
    for expert in ids.unique().tolist():
        token, k = torch.where(ids == expert)
        gate, value = F.linear(x[token], gate_up[expert]).chunk(2, dim=-1)
        rows = F.linear(F.silu(gate) * value, down[expert])
        y.index_add_(0, token, rows * weights[token, k, None])
    return y


def _grouped(
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    tokens, top_k = ids.shape
    order = ids.flatten().argsort(stable=True)
    ends = torch.bincount(ids.flatten(), minlength=len(gate_up)).cumsum(0).to(torch.int32)
    rows = F.grouped_mm(x[order // top_k], gate_up.transpose(1, 2), offs=ends)
    gate, value = rows.chunk(2, dim=-1)
    rows = F.grouped_mm(F.silu(gate) * value, down.transpose(1, 2), offs=ends)
    rows = rows * weights.flatten()[order, None]
    back = torch.empty_like(rows)
    back[order] = rows
    return back.view(tokens, top_k, -1).sum(1)


def matmul_peak(dtype: str, threads: int) -> tuple[Callable[[], object], int]:
    """A product of two square matrices, for what the machine reaches at most; and its operations.

    Smaller where a CPU lacks the dtype's instructions and a large one would take a minute.
    """
    torch.set_num_threads(threads)
    small, large = (torch.ones(size, size, dtype=_DTYPES[dtype]) for size in (256, 2048))
    began = time.perf_counter()
    _ = small @ small
    matrix = small if (time.perf_counter() - began) * 8**3 > 2 else large
    return lambda: matrix @ matrix, 2 * len(matrix) ** 3
