"""Problems drawn by hypothesis: shapes, storages, ties, NaN and infinities, any routing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from moe_export.moe import reference
from moe_export.moe.layer import ExpertsSpec, GroupScore, RouterSpec, Score
from moe_export.moe.quantize import parse_precision
from problems import STORAGES, Problem, experts_problem, router_problem

Array = npt.NDArray[Any]

# Half of a step, so that many logits are equal; and what is no number, or hardly one.
TIES = st.integers(-6, 6).map(lambda n: n / 2)
SPECIAL = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-40])
ACTIVATIONS = {
    True: ("silu", "gelu", "gelu_tanh", "relu", "swiglu_clamped"),
    False: ("silu", "gelu", "relu", "relu2"),
}


@st.composite
def routers(draw: st.DrawFn) -> Problem:
    """Every score and way to normalise, over logits with ties and with what is no number."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    size = draw(st.sampled_from([2, 3, 5, 8, 43]))
    used = draw(st.integers(1, groups))
    spec = RouterSpec(
        num_experts=groups * size,
        top_k=draw(st.integers(1, min(9, used * size))),
        score=draw(st.sampled_from(get_args(Score))),
        normalize=draw(st.booleans()),
        normalize_eps=draw(st.sampled_from([0.0, 1e-20, 0.25])),
        num_groups=groups,
        topk_groups=used,
        group_score=draw(st.sampled_from(get_args(GroupScore))),
        routed_scaling=draw(st.sampled_from([1.0, 2.5])),
        has_correction_bias=draw(st.booleans()),
        has_expert_scale=draw(st.booleans()),
    )
    tokens = draw(st.integers(0, 9))
    seed = draw(st.integers(0, 10**6))
    logits = 2 * np.random.default_rng(seed).normal(size=(tokens, spec.num_experts))
    kind = draw(st.sampled_from(["numbers", "ties", "special"]))
    if kind == "ties":
        logits = np.round(logits)
    if kind == "special" and logits.size:
        for place in draw(st.lists(st.integers(0, logits.size - 1), max_size=12)):
            logits.flat[place] = draw(st.one_of(SPECIAL, TIES))
    return router_problem(f"drawn-{seed}", logits, spec, seed=seed)


@st.composite
def routings(draw: st.DrawFn, num_experts: int) -> Array:
    """``topk_ids [T, K]``: at random, all to one expert, few of the experts, or many elsewhere."""
    tokens, top_k = draw(st.sampled_from([0, 1, 2, 3, 5, 17, 40])), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["random", "one takes all", "few", "elsewhere"]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = (tokens, top_k)
    if kind == "one takes all":
        return np.full(shape, draw(st.integers(0, num_experts - 1)), np.int32)
    low, high = {"few": (0, max(1, num_experts // 3)), "elsewhere": (-2, num_experts + 2)}.get(
        kind, (0, num_experts)
    )
    return rng.integers(low, high, size=shape).astype(np.int32)


@st.composite
def experts(draw: st.DrawFn) -> Problem:
    """Every way to store weights and to round rows, with and without gate and biases."""
    text, row_format = draw(st.sampled_from(STORAGES))
    precision = parse_precision(text)
    is_linear = draw(st.sampled_from([False, False, False, True]))
    gated = not is_linear and draw(st.booleans())
    layouts = st.sampled_from(["concatenated", "interleaved"])
    sizes = st.sampled_from([1, 2, 7, 16, 31, 32, 33, 48, 64, 65, 96, 130])
    spec = ExpertsSpec(
        num_experts=draw(st.sampled_from([1, 2, 3, 5, 8, 17])),
        hidden_size=draw(sizes),
        intermediate_size=0 if is_linear else draw(sizes),
        output_size=draw(sizes),
        activation="identity" if is_linear else draw(st.sampled_from(ACTIVATIONS[gated])),
        gated=gated,
        gate_layout=draw(layouts) if gated else "concatenated",
        weight_on=draw(st.sampled_from(["output", "input"])),
        weight_format=precision.format,
        block_size=precision.block_size,
        row_format=row_format,
        has_up_bias=not is_linear and draw(st.booleans()),
        has_down_bias=draw(st.booleans()),
    )
    topk_ids = draw(routings(spec.num_experts))
    seed = draw(st.integers(0, 10**6))
    problem = experts_problem(
        f"drawn-{seed}",
        spec,
        num_tokens=len(topk_ids),
        topk_ids=topk_ids,
        zeros=precision.zeros,
        seed=seed,
    )
    x = problem.inputs["x"].copy()
    kind = draw(st.sampled_from(["numbers", "small", "zeros", "a token that is not a number"]))
    if kind == "small":
        x *= np.float32(2.0**-60)
    if len(x):
        token = draw(st.integers(0, len(x) - 1))
        if kind == "zeros":
            x[token] = 0
        elif kind == "a token that is not a number":
            x[token] = np.nan
    return replace(problem, inputs={**problem.inputs, "x": x})


@st.composite
def sortings(draw: st.DrawFn) -> Problem:
    """Dispatch, and Combine of rows in the order that it gives."""
    num_experts = draw(st.sampled_from([1, 2, 5, 9, 300]))
    topk_ids = draw(routings(num_experts))
    if draw(st.booleans()):
        inputs: dict[str, Array] = {"topk_ids": topk_ids}
        return Problem(
            name="drawn", op="Dispatch", inputs=inputs, attributes={"num_experts": num_experts}
        )
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    order, _ = reference.dispatch(topk_ids, num_experts)
    inputs = {
        "y_sorted": rng.normal(size=(order.size, draw(st.sampled_from([1, 3, 16, 33])))),
        "order": order,
        "topk_weights": rng.uniform(size=topk_ids.shape),
    }
    narrow = {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in inputs.items()}
    return Problem(name="drawn", op="Combine", inputs=narrow, attributes={})


@st.composite
def products(draw: st.DrawFn) -> Problem:
    """GroupedMatMul over offsets that leave experts empty, and rows to nobody."""
    text, row_format = draw(st.sampled_from(STORAGES))
    precision = parse_precision(text)
    sizes = st.sampled_from([1, 7, 32, 33, 64, 96, 130])
    linear = ExpertsSpec(
        num_experts=draw(st.sampled_from([1, 2, 5, 9])),
        hidden_size=draw(sizes),
        intermediate_size=0,
        output_size=draw(sizes),
        activation="identity",
        gated=False,
        weight_format=precision.format,
        block_size=precision.block_size,
        row_format=row_format,
        has_down_bias=draw(st.booleans()),
    )
    topk_ids = draw(routings(linear.num_experts))
    ids = topk_ids.reshape(-1, 1)
    whole = experts_problem(
        "drawn", linear, num_tokens=len(ids), topk_ids=ids, zeros=precision.zeros
    )
    order, offsets = reference.dispatch(whole.inputs["topk_ids"], linear.num_experts)
    names = {"down": "weights", "down_scales": "scales", "down_zeros": "zeros", "down_bias": "bias"}
    inputs = {"x_sorted": whole.inputs["x"][order], "expert_offsets": offsets}
    inputs |= {to: whole.inputs[name] for name, to in names.items() if name in whole.inputs}
    kept = ("weight_format", "block_size", "row_format")
    attributes = {name: value for name, value in linear.attributes().items() if name in kept}
    return Problem(name="drawn", op="GroupedMatMul", inputs=inputs, attributes=attributes)


OPS = {
    "Router": routers(),
    "Experts": experts(),
    "Dispatch and Combine": sortings(),
    "GroupedMatMul": products(),
}
