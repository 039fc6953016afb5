"""Layers to time: shapes, weights, routings, and what is right in float64.

Letters as in docs/ops.md: T tokens, K top_k, E experts, H hidden, I intermediate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Matrices = Callable[[int], tuple[Array, Array]]
"""An expert's ``gate_up [2I, H]`` (gates first) and ``down [H, I]``."""


@dataclass(frozen=True)
class Layer:
    """A mixture of E gated SiLU experts, K for each token."""

    name: str
    hidden: int
    intermediate: int
    experts: int
    top_k: int

    @property
    def parameters(self) -> int:
        """Of one expert."""
        return 3 * self.hidden * self.intermediate

    def operations(self, tokens: int) -> int:
        """Multiplications and additions of all matrices."""
        return 2 * tokens * self.top_k * self.parameters


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("A", 1024, 512, 32, 4),
        Layer("B", 2048, 768, 128, 8),  # of Qwen3-VL-30B-A3B
        Layer("C", 2048, 1408, 64, 6),
        Layer("tiny", 64, 32, 8, 2),  # to try a change of the harness
    )
}

PRECISIONS = ("f32", "bf16", "int8", "int4")
BITS = {"f32": 32, "bf16": 16, "int8": 8, "int4": 4.5}
BLOCK = 32
"""Columns that share a scale in ``int4``."""

# Weights that a run may not find in a cache from the run before: 8 times an L3 of 32 MiB.
_COLD_BYTES = 256 * 2**20


def copies(layer: Layer, precision: str, tokens: int) -> int:
    """How many layers with weights of their own one call runs, so that they come from memory.

    With many tokens the weights are a small part of the work, and one layer will do.
    """
    if tokens > 16 or layer.name == "tiny":
        return 1
    stored = layer.experts * layer.parameters * BITS[precision] / 8
    return max(1, -int(-_COLD_BYTES // stored))


def expert_weights(layer: Layer, copy: int, expert: int) -> tuple[Array, Array]:
    """``gate_up [2I, H]`` and ``down [H, I]`` in float32, equal for equal arguments."""
    random = np.random.default_rng([layer.hidden, layer.intermediate, copy, expert])
    gate_up = random.standard_normal((2 * layer.intermediate, layer.hidden), np.float32)
    down = random.standard_normal((layer.hidden, layer.intermediate), np.float32)
    return (
        gate_up / np.float32(np.sqrt(layer.hidden)),
        down / np.float32(np.sqrt(layer.intermediate)),
    )


@dataclass(frozen=True)
class Step:
    """What one call computes: for each copy of the layer, tokens and where they go."""

    x: tuple[Array, ...]
    topk_ids: tuple[Array, ...]
    topk_weights: tuple[Array, ...]

    def touched(self) -> int:
        """Experts that have a token, over all copies."""
        return sum(len(np.unique(ids)) for ids in self.topk_ids)


def steps(layer: Layer, tokens: int, number: int) -> tuple[Step, ...]:
    """Different tokens and routings for ``number`` copies of the layer.

    Single tokens go through all experts before one returns; several tokens choose K different
    experts each, all alike likely.
    """
    random = np.random.default_rng([tokens, number, layer.experts])
    count = max(1, layer.experts // layer.top_k) if tokens == 1 else 4 if tokens <= 16 else 2
    routings = [_routings(layer, tokens, count, random) for _ in range(number)]
    return tuple(
        Step(
            tuple(
                random.standard_normal((tokens, layer.hidden), np.float32) for _ in range(number)
            ),
            tuple(routing[index] for routing in routings),
            tuple(_weights(layer, tokens, random) for _ in range(number)),
        )
        for index in range(count)
    )


def _routings(layer: Layer, tokens: int, count: int, random: np.random.Generator) -> list[Array]:
    if tokens == 1:
        order = random.permutation(layer.experts)[: count * layer.top_k]
        return [row[None].astype(np.int32) for row in order.reshape(count, layer.top_k)]
    ranks = random.random((count, tokens, layer.experts)).argsort(axis=-1)
    return list(ranks[..., : layer.top_k].astype(np.int32))


def _weights(layer: Layer, tokens: int, random: np.random.Generator) -> Array:
    raw = random.random((tokens, layer.top_k), np.float32) + np.float32(0.1)
    # Descending, as a router gives them.
    weights: Array = np.sort(raw / raw.sum(axis=1, keepdims=True), axis=1)[:, ::-1].copy()
    return weights


def router_logits(layer: Layer, ids: Array, weights: Array) -> Array:
    """Logits whose softmax over the K best is ``weights``: for layers that route themselves."""
    logits = np.full((len(ids), layer.experts), -1e4, np.float32)
    np.put_along_axis(logits, ids.astype(np.int64), np.log(weights), axis=1)
    return logits


def exact(x: Array, ids: Array, weights: Array, matrices: Matrices) -> Array:
    """The layer in float64."""
    y = np.zeros(x.shape)
    for expert in np.unique(ids):
        gate_up, down = (matrix.astype(np.float64) for matrix in matrices(int(expert)))
        token, k = np.nonzero(ids == expert)
        gate, value = np.split(x[token].astype(np.float64) @ gate_up.T, 2, axis=1)
        rows = (gate / (1 + np.exp(-gate)) * value) @ down.T
        np.add.at(y, token, rows * weights[token, k, None].astype(np.float64))
    return y


def relative_rms(got: Array, right: Array) -> float:
    """Root mean square of the error, as a share of that of what is right."""
    return float(np.sqrt(np.mean((got - right) ** 2) / np.mean(right**2)))
