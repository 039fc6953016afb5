"""The experts of one layer, H2048 I768 E128 K8, on this GPU: our plugin, PyTorch and vLLM.

Times are of the experts alone on the device, routing given, weights in its memory and not in its
cache, as behind other layers.  Peers take turns with ours, and medians are shown.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from moe_export.moe.quantize import parse_precision, quantize

ROOT = Path(__file__).resolve().parents[2]
TOKENS = (1, 4, 16, 64, 512, 4096)
ROUNDS, RUNS = 3, 30
DIRT = 256 << 20  # bytes, more than the cache of any GPU


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer."""

    hidden: int
    intermediate: int
    experts: int
    top_k: int


LAYER, SMALL = Shape(2048, 768, 128, 8), Shape(64, 32, 4, 2)


def table(small: bool) -> list[dict[str, Any]]:
    """Microseconds by tokens and precision, and how many times as long peers take."""
    shape = SMALL if small else LAYER
    rounds, runs = (1, 1) if small else (ROUNDS, RUNS)
    rows = []
    for precision in ("bf16", "int8@bf16", "int4@bf16", "int4:128@bf16"):
        weights = _weights(shape, precision)
        for tokens in TOKENS[:2] if small else TOKENS:
            x, ids, topk_weights = _routed(shape, tokens)
            contestants = {"moe-export": _ours(precision, weights, x, ids, topk_weights, runs)}
            if precision == "bf16":
                contestants |= _peers(weights, x, ids, topk_weights, runs)
            times: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(rounds):
                for name, seconds in contestants.items():
                    times[name].append(seconds())
            medians = {name: statistics.median(each) for name, each in times.items()}
            rows.append(
                {
                    "precision": precision,
                    "tokens": tokens,
                    "microseconds": {n: round(1e6 * t, 1) for n, t in medians.items()},
                    "x ours": {
                        name: round(t / medians["moe-export"], 2) for name, t in medians.items()
                    },
                }
            )
    return rows


def _weights(shape: Shape, precision: str) -> dict[str, np.ndarray]:
    """Random ones of four experts, again and again: their numbers cost time to make, not to use."""
    random = np.random.default_rng(0)
    sizes = {
        "up": (2 * shape.intermediate, shape.hidden),
        "down": (shape.hidden, shape.intermediate),
    }
    made = {}
    for name, size in sizes.items():
        numbers = random.standard_normal((4, *size), np.float32) / np.float32(size[-1] ** 0.5)
        stored = quantize(numbers, parse_precision(precision))
        repeated = (-(-shape.experts // 4), 1, 1)
        made[name] = np.tile(stored.values, repeated)[: shape.experts]
        if stored.scales is not None:
            scales = stored.scales.astype(ml_dtypes.bfloat16)
            made[f"{name}_scales"] = np.tile(scales, repeated)[: shape.experts]
    return made


def _routed(shape: Shape, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    x = random.standard_normal((tokens, shape.hidden), np.float32).astype(ml_dtypes.bfloat16)
    choices = [random.permutation(shape.experts)[: shape.top_k] for _ in range(tokens)]
    weights = random.random((tokens, shape.top_k), np.float32)
    return x, np.array(choices, np.int32), weights


def _ours(
    precision: str,
    weights: dict[str, np.ndarray],
    x: np.ndarray,
    ids: np.ndarray,
    topk_weights: np.ndarray,
    runs: int,
) -> Callable[[], float]:
    # The harness is the tests': a plugin's life without TensorRT.
    sys.path.append(str(ROOT / "tests"))
    from gpu.plugin_harness import GPU_LIBRARY, Harness
    from gpu.plugin_nodes import PluginNode

    parsed = parse_precision(precision)
    node = PluginNode(
        op="Experts",
        attributes={
            "activation": "silu",
            "gated": 1,
            "gate_layout": "concatenated",
            "weight_on": "output",
            "alpha": 1.702,
            "limit": 7.0,
            "weight_format": parsed.format,
            "block_size": parsed.block_size,
            "row_format": "bf16",
            "weight_layout": "rows",
        },
        inputs={"x": x, "topk_ids": ids, "topk_weights": topk_weights, **weights},
    )
    harness = Harness(GPU_LIBRARY, "driver")
    return lambda: harness.seconds(node, runs)


def _peers(
    weights: dict[str, np.ndarray],
    x: np.ndarray,
    ids: np.ndarray,
    topk_weights: np.ndarray,
    runs: int,
) -> dict[str, Callable[[], float]]:
    import torch

    if not torch.cuda.is_available():
        return {}

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).cuda()
        return torch.from_numpy(array).cuda()

    rows, chosen, scale = tensor(x), tensor(ids), tensor(topk_weights)
    up, down = tensor(weights["up"]), tensor(weights["down"])

    def grouped() -> Any:
        flat = chosen.reshape(-1).long()
        order = flat.argsort(stable=True)
        token = order // chosen.shape[1]
        ends = torch.bincount(flat, minlength=up.shape[0]).cumsum(0).int()
        inner = torch.nn.functional.grouped_mm(rows[token], up.transpose(1, 2), offs=ends)
        gate, value = inner.chunk(2, dim=-1)
        mixed = torch.nn.functional.silu(gate) * value
        y = torch.nn.functional.grouped_mm(mixed, down.transpose(1, 2), offs=ends)
        y = y * scale.reshape(-1)[order, None]
        return torch.zeros_like(rows, dtype=torch.float32).index_add_(0, token, y.float())

    made = {"torch grouped_mm": lambda: _clocked(grouped, runs)}
    if importlib.util.find_spec("vllm") is not None:
        from vllm.model_executor.layers.fused_moe import fused_experts

        made["vllm fused_experts"] = lambda: _clocked(
            lambda: fused_experts(rows, up, down, scale, chosen), runs
        )
    return made


def _clocked(function: Callable[[], Any], runs: int) -> float:
    """As the harness takes ours: the cache is emptied before each run, which is taken off again."""
    import torch

    dirt = torch.empty(DIRT, dtype=torch.int8, device="cuda")

    def spent(asked: Callable[[], Any]) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(runs):
            dirt.zero_()
            asked()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / runs

    spent(function)
    return spent(function) - spent(lambda: None)
