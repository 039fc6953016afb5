"""The ops as launches in the order of the C++ launcher, plugins/kernels/cuda/*.cc.

Variants are named, not chosen, so that small problems reach every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import ml_dtypes
import numpy as np

from .interpreter import BY_NAME, launch

Array = np.ndarray[Any, Any]

SCORES = ("softmax", "sigmoid", "softmax_topk", "sigmoid_topk")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "identity", "swiglu_clamped")
ROWS = {"fp32": np.float32, "bf16": ml_dtypes.bfloat16}
TYPES = {np.dtype(np.float32): "fp32", np.dtype(np.float16): "fp16"}
TYPES[np.dtype(ml_dtypes.bfloat16)] = "bf16"


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Filled with what nobody should read: NaN, or a number that is no place."""
    poison = -(2**30) if np.dtype(dtype) == np.int32 else np.nan
    return np.full(shape, poison, dtype)


@dataclass(frozen=True)
class Matrices:
    """Stored weights as the kernels read them."""

    stored: str
    values: Array
    scales: Array | None
    rows: int
    columns: int
    block_size: int

    @property
    def apart(self) -> bool:
        """Whether rows have their even columns first where they meet these."""
        return self.stored == "int4"

    def arguments(self) -> dict[str, Any]:
        blocks = 0 if self.scales is None else self.scales.shape[-1]
        return {
            "weights": self.values,
            "scales": self.scales,
            "columns": self.columns,
            "row_elements": self.values.shape[-1],
            "scale_blocks": blocks,
            "block_size": self.block_size or self.columns,
        }


def matrices(weight: Array, scales: Array | None, block_size: int) -> Matrices:
    _, rows, columns = weight.shape
    if scales is None:
        stored = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[TYPES[weight.dtype]]
        return Matrices(stored, weight, None, rows, columns, 0)
    in_bf16 = scales.astype(ml_dtypes.bfloat16)
    if (in_bf16.astype(np.float32) != scales).any():
        raise ValueError("scales of the GPU kernels are bfloat16")
    if weight.dtype != ml_dtypes.int4:
        stored = "int8" if block_size else "int8row"
        return Matrices(stored, weight, in_bf16, rows, columns, block_size)
    whole = weight.astype(np.int8)
    packed = (whole[..., 0::2] & 15 | whole[..., 1::2] << 4).astype(np.int8)
    return Matrices("int4", np.ascontiguousarray(packed), in_bf16, rows, columns, block_size)


def route(logits: Array, spec: Any, bias: Array | None, scale: Array | None) -> tuple[Array, Array]:
    tokens, num_experts = logits.shape
    size = min(
        int(name[8:])
        for name in BY_NAME
        if name.startswith("router_e") and int(name[8:]) >= num_experts
    )
    weights, ids = empty((tokens, spec.top_k), np.float32), empty((tokens, spec.top_k), np.int32)
    launch(
        f"router_e{size}", (tokens,), logits=logits, correction_bias=bias, expert_scale=scale,
        topk_weights=weights, topk_ids=ids, num_experts=num_experts, top_k=spec.top_k,
        score_kind=SCORES.index(spec.score), normalize=spec.normalize,
        normalize_eps=spec.normalize_eps, normalize_min=spec.normalize_min,
        num_groups=spec.num_groups, topk_groups=spec.topk_groups,
        top2=spec.group_score == "top2_sum", routed_scaling=spec.routed_scaling,
        has_bias=bias is not None, has_scale=scale is not None,
    )  # fmt: skip
    return weights, ids


def dispatch(topk_ids: Array, num_experts: int) -> tuple[Array, Array]:
    ids = np.ascontiguousarray(topk_ids.reshape(-1))
    counts, offsets = empty((num_experts + 1,), np.int32), empty((num_experts + 1,), np.int32)
    order = empty((ids.size,), np.int32)
    sizes = {"assignments": ids.size, "num_experts": num_experts}
    grid = (num_experts + 1,)
    launch("dispatch_count", grid, topk_ids=ids, counts=counts, **sizes)
    launch(
        "dispatch_scatter",
        grid,
        topk_ids=ids,
        counts=counts,
        order=order,
        expert_offsets=offsets,
        **sizes,
    )
    return order, offsets


def tile_map(offsets: Array, rows: int, block_m: int) -> Array:
    num_experts = offsets.size - 1
    num_tiles = (rows + min(rows, num_experts) * (block_m - 1)) // block_m
    tiles = empty((num_tiles, 4), np.int32)
    launch(
        "tile_map", (num_experts + 1,), expert_offsets=offsets, tiles=tiles, rows=rows,
        num_experts=num_experts, num_tiles=num_tiles, block_m=block_m,
    )  # fmt: skip
    return tiles


def to_rows(x: Array, rows: str, weights: Array | None, top_k: int, apart: bool = False) -> Array:
    """Tokens in the type of compute rows; times their weights, one row for each assignment."""
    if weights is None and TYPES[x.dtype] == rows and not apart:
        return x
    count = len(x) if weights is None else len(x) * top_k
    y = empty((count, x.shape[1]), ROWS[rows])
    launch(
        f"rows_{TYPES[x.dtype]}_{rows}", (count, ceil(x.shape[1] / 1024)), x=x, weights=weights,
        y=y, columns=x.shape[1], divisor=1 if weights is None else top_k,
        has_weights=weights is not None, apart=apart,
    )  # fmt: skip
    return y


def gemm_plain(
    variant: str, m: Matrices, x: Array, bias: Array | None, topk_weights: Array | None,
    order: Array | None, tiles: Array, *, gather: int, scatter: bool,
) -> Array:  # fmt: skip
    kernel = BY_NAME[variant]
    size = len(x) * max(gather, 1) if order is None else order.size
    y = empty((size, m.rows), np.float32)
    grid = (len(tiles) * ceil(m.rows / kernel.constants["BN"]),)
    launch(
        variant, grid, x=x, bias=bias, topk_weights=topk_weights, order=order, tile_map=tiles, y=y,
        features=m.rows, tiles_m=len(tiles), gather=gather, scatter=scatter,
        has_bias=bias is not None, has_weights=topk_weights is not None, **m.arguments(),
    )  # fmt: skip
    return y


def activate(hidden: Array, rows: str, activation: str, apart: bool, **which: Any) -> Array:
    """``ids`` where rows are by assignment, ``offsets`` where they are sorted."""
    y = empty(hidden.shape, ROWS[rows])
    grid = (len(hidden), ceil(hidden.shape[1] / 1024))
    ids, offsets = which.get("ids"), which.get("offsets")
    launch(
        f"activate_rows_{rows}", grid, hidden=hidden, ids=ids, offsets=offsets, y=y,
        columns=hidden.shape[1], num_experts=which["num_experts"],
        activation=ACTIVATIONS.index(activation), by_id=ids is not None, apart=apart,
    )  # fmt: skip
    return y


def sum_rows(rows: Array, dtype: Any, shape: tuple[int, int], **parts: Any) -> Array:
    """combine.py; parts that are not given are left out."""
    tokens, top_k = shape
    y = empty((tokens, rows.shape[1]), dtype)
    pointers = {name: parts.get(name) for name in ("index", "weights", "ids", "offsets")}
    launch(
        f"combine_{TYPES[rows.dtype]}_{TYPES[y.dtype]}", (tokens, ceil(rows.shape[1] / 512)),
        rows=rows, y=y, top_k=top_k, columns=rows.shape[1], num_experts=parts.get("num_experts", 0),
        num_rows=tokens * top_k, **pointers,
        **{f"has_{name}": pointers[name] is not None for name in pointers},
    )  # fmt: skip
    return y


@dataclass(frozen=True)
class Experts:
    """One call of the op; ``bm`` 0 goes by assignment, else by expert in tiles of so many rows."""

    spec: Any
    up: Matrices | None
    down: Matrices
    up_bias: Array | None
    down_bias: Array | None
    rows: str
    bm: int
    vector: bool

    def variant(self, kind: str, m: Matrices) -> str:
        name = f"gemv_{kind}_{m.stored}_{self.rows}"
        if self.bm:
            wide = "wide" if self.vector and m.block_size and m.block_size % 128 == 0 else ""
            name = f"gemm_{kind}_{m.stored}{wide}_{self.rows}_m{self.bm if self.vector else 32}"
        return name if self.vector else f"{name}_any"

    def __call__(self, x: Array, topk_ids: Array, topk_weights: Array) -> Array:
        on_input = self.spec.weight_on == "input"
        top_k = topk_ids.shape[1]
        first = self.up or self.down
        rows = to_rows(x, self.rows, topk_weights if on_input else None, top_k, first.apart)
        way = self.by_expert if self.bm else self.by_assignment
        slots = way(rows, topk_ids, None if on_input else topk_weights, 1 if on_input else top_k)
        num_experts = len(self.down.values)
        return sum_rows(slots, x.dtype, topk_ids.shape, ids=topk_ids, num_experts=num_experts)

    def epilogue(self) -> dict[str, Any]:
        code = ACTIVATIONS.index(self.spec.activation)
        return {"activation": code, "alpha": self.spec.alpha, "limit": self.spec.limit}

    def by_expert(self, rows: Array, ids: Array, weights: Array | None, divisor: int) -> Array:
        experts = len(self.down.values)
        order, offsets = dispatch(ids, experts)
        kernel = self.variant("plain", self.down)
        tiles = tile_map(offsets, ids.size, BY_NAME[kernel].constants["BM"])
        if self.up is None:
            return gemm_plain(
                kernel,
                self.down,
                rows,
                self.down_bias,
                weights,
                order,
                tiles,
                gather=divisor,
                scatter=True,
            )
        if self.spec.gated:
            hidden = self.gated(rows, order, tiles, divisor)
        else:
            up = self.variant("plain", self.up)
            wide = gemm_plain(
                up, self.up, rows, self.up_bias, None, order, tiles, gather=divisor, scatter=False
            )
            hidden = activate(
                wide,
                self.rows,
                self.spec.activation,
                self.down.apart,
                offsets=offsets,
                num_experts=experts,
            )
        return gemm_plain(
            kernel, self.down, hidden, self.down_bias, weights, order, tiles, gather=0, scatter=True
        )

    def gated(self, rows: Array, order: Array, tiles: Array, divisor: int) -> Array:
        assert self.up is not None
        variant = self.variant("gated", self.up)
        features = self.up.rows // 2
        y = empty((order.size, features), ROWS[self.rows])
        launch(
            variant, (len(tiles) * ceil(features / BY_NAME[variant].constants["BN"]),), x=rows,
            bias=self.up_bias, order=order, tile_map=tiles, y=y, features=features,
            tiles_m=len(tiles), divisor=divisor, has_bias=self.up_bias is not None,
            **self.up.arguments(), **self.epilogue(),
        )  # fmt: skip
        return y

    def gemv(
        self,
        kind: str,
        m: Matrices,
        rows: Array,
        bias: Array | None,
        ids: Array,
        y: Array,
        **more: Any,
    ) -> Array:
        variant = self.variant(kind, m)
        features = y.shape[1]
        grid = (len(y), ceil(features / BY_NAME[variant].constants["BN"]))
        launch(
            variant, grid, x=rows, bias=bias, topk_ids=ids, y=y, features=features,
            num_experts=len(m.values), has_bias=bias is not None, **m.arguments(), **more,
        )  # fmt: skip
        return y

    def by_assignment(self, rows: Array, ids: Array, weights: Array | None, divisor: int) -> Array:
        more = {"divisor": divisor}
        if self.up is not None:
            shape = (ids.size, self.down.columns)
            if self.spec.gated:
                y = empty(shape, ROWS[self.rows])
                hidden = self.gemv(
                    "gated", self.up, rows, self.up_bias, ids, y, **more, **self.epilogue()
                )
            else:
                no_weights = {"topk_weights": None, "has_weights": False}
                wide = empty(shape, np.float32)
                self.gemv("plain", self.up, rows, self.up_bias, ids, wide, **more, **no_weights)
                hidden = activate(
                    wide,
                    self.rows,
                    self.spec.activation,
                    self.down.apart,
                    ids=ids,
                    num_experts=len(self.down.values),
                )
            rows, more = hidden, {"divisor": 1}
        more |= {"topk_weights": weights, "has_weights": weights is not None}
        slots = empty((ids.size, self.down.rows), np.float32)
        return self.gemv("plain", self.down, rows, self.down_bias, ids, slots, **more)


def grouped_matmul(
    x: Array, offsets: Array, m: Matrices, bias: Array | None, rows: str, bm: int
) -> Array:
    if not len(x):
        return np.zeros((0, m.rows), x.dtype)
    kernel = f"gemm_plain_{m.stored}_{rows}_m{bm or 32}" + ("" if bm else "_any")
    tiles = tile_map(offsets, len(x), BY_NAME[kernel].constants["BM"])
    converted = to_rows(x, rows, None, 1, m.apart)
    product = gemm_plain(kernel, m, converted, bias, None, None, tiles, gather=0, scatter=False)
    shape = (len(x), 1)
    return sum_rows(product, x.dtype, shape, offsets=offsets, num_experts=offsets.size - 1)


def combine(y_sorted: Array, order: Array, topk_weights: Array) -> Array:
    index = empty((order.size,), np.int32)
    grid = (ceil(order.size / 1024),)
    launch("fill", grid, x=index, count=index.size, value=-1)
    launch("invert", grid, order=order, index=index, count=index.size)
    return sum_rows(y_sorted, y_sorted.dtype, topk_weights.shape, index=index, weights=topk_weights)
