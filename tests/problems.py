"""One suite of problems for every implementation of the ops.

A problem is an op, its attributes and its inputs, made from a fixed seed.  Whatever runs an op
(the oracle, the ONNX bodies, PyTorch, kernels) solves the same problems within the bounds of
``moe_export.moe.tolerance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import (
    Activation,
    AttributeValue,
    ExpertsSpec,
    GroupScore,
    RouterSpec,
    Score,
)
from moe_export.moe.quantize import Precision, parse_precision, quantize

Array = npt.NDArray[Any]

STORED = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
INTEGERS = [
    f"{text}{zeros}"
    for text in ("int8", "int8:32", "int8:64", "int4:32", "int4:64", "int4:128")
    for zeros in ("", "+zeros")
]
# Weights, and what rows are rounded to before they meet them.
STORAGES = [
    *((weights, rows) for weights in ("f32", "bf16", "f16") for rows in ("f32", "bf16")),
    *((weights, "f32") for weights in ("int8", "int4:64+zeros")),
    *((weights, "int8") for weights in ("int8", "int8+zeros", "int8:64+zeros", "int4", "int4:128")),
    *((weights, "int16") for weights in ("int8", "int8:64+zeros", "int4")),
]
QUANTISED = {"int8": (np.int8, 127), "int4": (ml_dtypes.int4, 7)}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One op with its inputs by schema name; ``spec`` for the ops that have one."""

    name: str
    op: str
    inputs: Mapping[str, Array]
    spec: RouterSpec | ExpertsSpec | None = None
    attributes: Mapping[str, AttributeValue]

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"


def router_problem(name: str, router_logits: Array, spec: RouterSpec, seed: int = 7) -> Problem:
    rng = np.random.default_rng(seed)
    inputs = {"router_logits": router_logits.astype(np.float32)}
    if spec.has_correction_bias:
        bias = rng.normal(size=spec.num_experts)
        inputs["correction_bias"] = bias.astype(np.float32)
    if spec.has_expert_scale:
        scale = rng.uniform(0.5, 2, size=spec.num_experts)
        inputs["expert_scale"] = scale.astype(np.float32)
    return Problem(name=name, op="Router", inputs=inputs, spec=spec, attributes=spec.attributes())


def experts_problem(
    name: str,
    spec: ExpertsSpec,
    *,
    num_tokens: int = 7,
    top_k: int = 2,
    topk_ids: Array | None = None,
    zeros: bool = False,
    seed: int = 11,
) -> Problem:
    """Tokens, a routing without repeats (unless given) and weights in the spec's format."""
    rng = np.random.default_rng(seed)
    shape = (num_tokens, spec.num_experts)
    if topk_ids is None:
        topk_ids = np.argsort(rng.random(shape), axis=1)[:, :top_k]
    inputs: dict[str, Array] = {
        "x": rng.normal(size=(num_tokens, spec.hidden_size)).astype(np.float32),
        "topk_ids": topk_ids.astype(np.int32),
        "topk_weights": rng.uniform(0.1, 1, size=topk_ids.shape).astype(np.float32),
    }
    up_rows = spec.intermediate_size * (2 if spec.gated else 1)
    matrices = {"down": (spec.output_size, spec.intermediate_size or spec.hidden_size)}
    if spec.intermediate_size:
        matrices["up"] = (up_rows, spec.hidden_size)
    for matrix, (rows, columns) in matrices.items():
        weight = rng.normal(size=(spec.num_experts, rows, columns)) / np.sqrt(columns)
        inputs |= _stored(matrix, weight, spec, zeros=zeros)
    if spec.has_up_bias:
        inputs["up_bias"] = rng.normal(size=(spec.num_experts, up_rows)).astype(np.float32)
    if spec.has_down_bias:
        bias = rng.normal(size=(spec.num_experts, spec.output_size))
        inputs["down_bias"] = bias.astype(np.float32)
    return Problem(name=name, op="Experts", inputs=inputs, spec=spec, attributes=spec.attributes())


def _stored(name: str, weight: Array, spec: ExpertsSpec, *, zeros: bool) -> dict[str, Array]:
    """``weight [E, rows, columns]`` in the spec's format, with scales and zero points.

    Not what moe-export's own quantiser makes: these scales need all of a float32.
    """
    if spec.weight_format in STORED:
        return {name: weight.astype(STORED[spec.weight_format])}
    dtype, largest = QUANTISED[spec.weight_format]
    columns = weight.shape[-1]
    block = spec.block_size or columns
    starts = np.arange(0, columns, block)
    scales = np.maximum.reduceat(np.abs(weight), starts, axis=-1) / largest
    per_column = np.repeat(scales, block, axis=-1)[..., :columns]
    shift = np.full(scales.shape, 2 if zeros else 0)
    numbers = np.round(weight / per_column) + (2 if zeros else 0)
    stored = {
        name: np.clip(numbers, -largest - 1, largest).astype(dtype),
        f"{name}_scales": scales.astype(np.float32),
    }
    return stored | ({f"{name}_zeros": shift.astype(dtype)} if zeros else {})


def _logits(num_tokens: int, num_experts: int, seed: int = 3) -> Array:
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=(num_tokens, num_experts))


def _router_specs() -> dict[str, RouterSpec]:
    plain = RouterSpec(num_experts=8, top_k=2)
    specs = {score: replace(plain, score=score) for score in get_args(Score)}
    specs |= {f"{name}-normalized": replace(s, normalize=True) for name, s in specs.items()}
    both = {"has_correction_bias": True, "has_expert_scale": True}
    specs |= {f"{name}-bias-scale": replace(s, **both) for name, s in specs.items()}
    grouped = replace(plain, num_groups=4, topk_groups=2, score="sigmoid", normalize=True)
    for group_score in get_args(GroupScore):
        specs[f"groups-by-{group_score}"] = replace(grouped, group_score=group_score)
    return specs | {
        "top1": replace(plain, top_k=1),
        "dense-mixture": replace(plain, top_k=8),
        "one-expert": RouterSpec(num_experts=1, top_k=1),
        "normalize-eps": replace(plain, normalize=True, normalize_eps=0.25),
        "normalize-min": replace(plain, normalize=True, normalize_min=0.9),
        "normalize-eps-min": replace(plain, normalize=True, normalize_eps=1e-9, normalize_min=0.7),
        "scaled": replace(plain, routed_scaling=1.7),
        "deepseek": replace(
            grouped, group_score="top2_sum", has_correction_bias=True, normalize_eps=1e-20,
            routed_scaling=2.5,
        ),
        "groups-of-softmax": replace(grouped, score="softmax", normalize=False),
        "groups-of-logits": replace(grouped, score="softmax_topk", group_score="top2_sum"),
        "all-groups": replace(grouped, topk_groups=4, top_k=8),
        "one-group-of-nine": RouterSpec(num_experts=27, top_k=5, num_groups=3, topk_groups=1),
        "odd": RouterSpec(num_experts=13, top_k=5, normalize=True),
        "many-experts": RouterSpec(num_experts=257, top_k=9, score="sigmoid"),
    }  # fmt: skip


def router_problems() -> list[Problem]:
    specs = _router_specs()
    problems = [
        router_problem(name, _logits(17, spec.num_experts), spec) for name, spec in specs.items()
    ]
    for num_tokens in (0, 1, 257):
        for name in ("softmax", "deepseek", "softmax_topk-normalized"):
            logits = _logits(num_tokens, 8)
            problems.append(router_problem(f"{name}-T{num_tokens}", logits, specs[name]))
    # Extremes: every special row under every score, and with groups.
    for name, spec in specs.items():
        if spec.num_experts == 8:
            problems.append(router_problem(f"{name}-hostile", hostile_logits(8), spec))
    ties = np.round(_logits(64, 257))
    for score in get_args(Score):
        wide = RouterSpec(num_experts=257, top_k=9, score=score)
        problems.append(router_problem(f"{score}-ties", ties, wide))
        equal = router_problem(f"{score}-all-equal", np.full((3, 257), 0.3), wide)
        problems.append(equal)
    return problems


def hostile_logits(num_experts: int) -> Array:
    """Rows with NaN, infinities, ties and huge numbers; at least 8 experts."""
    rows = _logits(12, num_experts, seed=5)
    rows[0] = np.nan
    rows[1, 2:] = np.nan
    rows[2, 1:] = np.nan
    rows[3, 3] = np.nan
    rows[4, 5] = np.inf
    rows[5] = np.inf
    rows[6] = -np.inf
    rows[7, 1:] = -np.inf
    rows[8, ::2] = np.nan
    rows[8, 1::2] = -np.inf
    rows[9] = 0
    rows[10] = np.where(np.arange(num_experts) % 2, 80, -80)
    rows[11] = np.finfo(np.float32).max * np.sign(rows[11])
    return rows


SMALL = ExpertsSpec(num_experts=5, hidden_size=33, intermediate_size=17, output_size=33)
LINEAR = replace(SMALL, intermediate_size=0, output_size=6, gated=False, activation="identity")


def _architectures() -> list[Problem]:
    problems = []
    for activation in get_args(Activation):
        for gated in (True, False):
            if activation == "swiglu_clamped" and not gated:
                continue
            spec = replace(SMALL, activation=activation, gated=gated)
            kind = "gated" if gated else "plain"
            problems.append(experts_problem(f"{activation}-{kind}", spec))
    biased = {"has_up_bias": True, "has_down_bias": True}
    gpt_oss = replace(
        SMALL, activation="swiglu_clamped", gate_layout="interleaved", limit=0.5, **biased
    )
    return [
        *problems,
        experts_problem("interleaved", replace(SMALL, gate_layout="interleaved")),
        experts_problem("gpt-oss", gpt_oss),
        experts_problem("biased", replace(SMALL, **biased)),
        experts_problem("up-bias-only", replace(SMALL, has_up_bias=True)),
        experts_problem("down-bias-plain", replace(SMALL, gated=False, has_down_bias=True)),
        experts_problem("weight-on-input", replace(SMALL, weight_on="input", **biased)),
        experts_problem("another-output-size", replace(SMALL, output_size=9)),
        experts_problem("linear", LINEAR),
        experts_problem("linear-biased", replace(LINEAR, has_down_bias=True)),
        experts_problem("linear-weight-on-input", replace(LINEAR, weight_on="input")),
        experts_problem("hidden-size-1", replace(SMALL, hidden_size=1, intermediate_size=1)),
    ]


def _formats() -> list[Problem]:
    wide = replace(SMALL, hidden_size=160, intermediate_size=96, output_size=24)
    problems = [
        experts_problem(name, replace(SMALL, weight_format=name)) for name in ("bf16", "f16")
    ]
    for name, block_size in (("int8", 0), ("int8", 32), ("int4", 32), ("int4", 64), ("int4", 128)):
        spec = replace(wide, weight_format=name, block_size=block_size)
        title = f"{name}-block{block_size}"
        problems.append(experts_problem(title, spec))
        problems.append(experts_problem(f"{title}-zeros", spec, zeros=True))
    ragged = replace(SMALL, weight_format="int4", block_size=32)
    linear = replace(LINEAR, weight_format="int8", has_down_bias=True)
    half_input = replace(SMALL, weight_format="bf16", weight_on="input", has_up_bias=True)
    return [
        *problems,
        experts_problem("int4-ragged-last-block", ragged, zeros=True),
        experts_problem("linear-int8", linear, zeros=True),
        experts_problem("bf16-weight-on-input", half_input),
    ]


def _routings() -> list[Problem]:
    one_takes_all = np.full((7, 1), 3)
    first_and_last = np.tile([[4, 0]], (7, 1))
    twice = np.tile([[2, 2]], (7, 1))
    int32 = np.iinfo(np.int32)
    elsewhere = np.array([[0, -1], [5, 4], [int32.max, int32.min], [2, 3], [-1, -1]])
    problems = [experts_problem(f"T{n}", SMALL, num_tokens=n) for n in (0, 1, 7, 257)]
    problems += [
        experts_problem("every-expert", SMALL, top_k=5),
        experts_problem("one-expert-takes-all", SMALL, topk_ids=one_takes_all),
        experts_problem("experts-without-tokens", SMALL, topk_ids=first_and_last),
        experts_problem("one-expert-twice", SMALL, topk_ids=twice),
        experts_problem("single-expert", replace(SMALL, num_experts=1), top_k=1),
        experts_problem("T0-linear", LINEAR, num_tokens=0),
    ]
    for name, spec in (("", SMALL), ("-weight-on-input", replace(SMALL, weight_on="input"))):
        somewhere = experts_problem(f"elsewhere{name}", spec, num_tokens=5, topk_ids=elsewhere)
        problems += [somewhere, _poisoned(somewhere, f"elsewhere{name}-poisoned")]
    nobody = experts_problem("nobody-here", SMALL, topk_ids=np.full((7, 2), 9))
    return [*problems, nobody, _not_a_number(experts_problem("nan-token", SMALL))]


def _rounded_rows() -> list[Problem]:
    """Rows rounded to bfloat16, int8 and int16, with every weight format that they go with."""
    wide = replace(SMALL, hidden_size=136, intermediate_size=40, output_size=24)
    biased = {"has_up_bias": True, "has_down_bias": True}
    problems = []
    for name in ("bf16", "f32", "f16"):
        for base, title in ((SMALL, ""), (wide, "-wide")):
            spec = replace(base, weight_format=name, row_format="bf16")
            problems.append(experts_problem(f"rows-bf16-{name}{title}", spec))
    for text, row_format in product(INTEGERS, ("int8", "int16")):
        precision = parse_precision(text)
        how: dict[str, Any] = {
            "weight_format": precision.format,
            "block_size": precision.block_size,
            "row_format": row_format,
        }
        title, zeros = f"rows-{row_format}-{text}", precision.zeros
        problems.append(experts_problem(title, replace(SMALL, **how), zeros=zeros))
        if text in ("int8+zeros", "int8:64", "int4:64+zeros", "int4:128"):
            in_bf16 = experts_problem(f"{title}-wide", replace(wide, **how), zeros=zeros)
            problems.append(_own_scales(in_bf16, precision))
    for name, row_format, block_size in (
        ("bf16", "bf16", 0),
        ("int4", "int8", 32),
        ("int8", "int16", 0),
    ):
        spec = replace(
            SMALL, weight_format=name, row_format=row_format, block_size=block_size, **biased
        )
        interleaved = replace(spec, gate_layout="interleaved")
        linear = replace(
            spec, activation="identity", gated=False, intermediate_size=0, has_up_bias=False
        )
        plain = replace(spec, activation="relu2", gated=False)
        title = f"rows-{row_format}"
        problems += [
            experts_problem(f"{title}-weight-on-input", replace(spec, weight_on="input")),
            experts_problem(f"{title}-interleaved", interleaved, zeros=name == "int4"),
            experts_problem(f"{title}-linear", linear),
            experts_problem(f"{title}-plain", plain),
            experts_problem(f"{title}-T0", spec, num_tokens=0),
            experts_problem(f"{title}-T67", spec, num_tokens=67),
            experts_problem(f"{title}-hidden-size-1", replace(spec, hidden_size=1)),
            _not_a_number(experts_problem(f"{title}-nan-token", spec)),
            _not_a_number(experts_problem(f"{title}-nan-token-wide", replace(wide, **_how(spec)))),
            _extreme(experts_problem(f"{title}-extreme", replace(spec, activation="relu"))),
        ]
    return problems


def _how(spec: ExpertsSpec) -> dict[str, Any]:
    names = ("weight_format", "block_size", "row_format")
    return {name: getattr(spec, name) for name in names}


def _own_scales(problem: Problem, precision: Precision) -> Problem:
    """The same with weights that moe-export's quantiser made: bfloat16 holds their scales."""
    rng = np.random.default_rng(17)
    inputs = dict(problem.inputs)
    for name in ("up", "down"):
        weight = rng.normal(size=inputs[name].shape) / np.sqrt(inputs[name].shape[-1])
        stored = quantize(weight, precision)
        inputs |= {name: stored.values, f"{name}_scales": stored.scales}
        if stored.zeros is not None:
            inputs[f"{name}_zeros"] = stored.zeros
    return replace(problem, inputs=inputs)


def _extreme(problem: Problem) -> Problem:
    """Rows of zeros, of subnormal numbers, and of numbers with 60 binary orders between them."""
    x = problem.inputs["x"].copy()
    x[0] = 0
    x[1] = 1e-40
    x[2, :-1] = 0
    x[3] *= np.exp2(np.linspace(-30, 30, x.shape[1]))
    x[5] *= np.float32(1e-36)
    return replace(problem, inputs={**problem.inputs, "x": x})


def _poisoned(problem: Problem, name: str) -> Problem:
    """NaN and infinite weights on assignments that live elsewhere: 0 * NaN must not appear."""
    assert isinstance(problem.spec, ExpertsSpec)
    ids, weights = problem.inputs["topk_ids"], problem.inputs["topk_weights"].copy()
    outside = (ids < 0) | (ids >= problem.spec.num_experts)
    weights[outside] = np.resize([np.nan, np.inf], int(outside.sum()))
    x = problem.inputs["x"].copy()
    x[outside.all(axis=1)] = np.nan
    return replace(problem, name=name, inputs={**problem.inputs, "topk_weights": weights, "x": x})


def _not_a_number(problem: Problem) -> Problem:
    """One token is NaN and one is infinite; the others must not notice."""
    x = problem.inputs["x"].copy()
    x[1] = np.nan
    x[4, 0] = np.inf
    return replace(problem, inputs={**problem.inputs, "x": x})


def experts_problems() -> list[Problem]:
    return _architectures() + _formats() + _routings() + _rounded_rows()


def grouped_problems() -> list[Problem]:
    """Dispatch, GroupedMatMul and Combine."""
    rng = np.random.default_rng(13)
    problems = []
    for name, ids in {
        "T0": np.zeros((0, 2)),
        "T1": np.array([[1]]),
        "random": rng.integers(0, 5, size=(37, 3)),
        "elsewhere": rng.integers(-3, 9, size=(37, 3)),
        "one-takes-all": np.full((7, 2), 4),
        "nobody-here": np.full((7, 2), -1),
    }.items():
        topk_ids = ids.astype(np.int32)
        keys = np.where((topk_ids < 0) | (topk_ids > 4), 5, topk_ids).reshape(-1)
        order = np.argsort(keys, kind="stable").astype(np.int32)
        offsets = np.array([(keys < e).sum() for e in range(6)], np.int32)
        rows = rng.normal(size=(keys.size, 33)).astype(np.float32)
        weights = (rng.normal(size=(5, 9, 33)) / 6).astype(np.float32)
        topk_weights = rng.uniform(size=topk_ids.shape).astype(np.float32)
        matmul = {"x_sorted": rows, "expert_offsets": offsets, "weights": weights}
        biased = {**matmul, "bias": rng.normal(size=(5, 9)).astype(np.float32)}
        combine = {"y_sorted": rows, "order": order, "topk_weights": topk_weights}
        for op, title, inputs, attributes in (
            ("Dispatch", name, {"topk_ids": topk_ids}, {"num_experts": 5}),
            ("GroupedMatMul", name, matmul, {}),
            ("GroupedMatMul", f"{name}-biased", biased, {}),
            ("Combine", name, combine, {}),
        ):
            problems.append(Problem(name=title, op=op, inputs=inputs, attributes=attributes))
    return problems


def stored_weight_problems() -> list[Problem]:
    """GroupedMatMul and Linear with every way to store a weight and to round a row."""
    problems = []
    for text, row_format in STORAGES:
        for rows, columns, shapes in ((9, 33, ((), (15,), (3, 5))), (40, 128, ((15,),))):
            title = f"{text}-rows-{row_format}-{columns}"
            grouped = _matmul(title, parse_precision(text), row_format, (rows, columns))
            problems.append(grouped)
            problems += [_linear(grouped, f"{title}-rank{len(s) + 1}", s) for s in shapes]
    for text, row_format in (
        ("f32", "f32"),
        ("bf16", "bf16"),
        ("int4+zeros", "int8"),
        ("int8", "int16"),
    ):
        title = f"{text}-rows-{row_format}"
        grouped = _matmul(title, parse_precision(text), row_format, (9, 70))
        spoilt = grouped.inputs["x_sorted"].copy()
        spoilt[[1, 5, 9, 11], [3, 69, 31, 32]] = [np.nan, np.inf, -np.inf, np.nan]
        spoilt[3] = 0
        inputs = {name: array for name, array in grouped.inputs.items() if name != "bias"}
        special = replace(grouped, name=f"{title}-nan", inputs={**inputs, "x_sorted": spoilt})
        nobody = {"expert_offsets": np.zeros(6, np.int32)}
        nothing = {**nobody, "x_sorted": spoilt[:0]}
        problems += [
            special,
            _linear(special, f"{title}-nan", (15,)),
            _linear(grouped, f"{title}-T0", (0,)),
            _linear(grouped, f"{title}-3x0", (3, 0)),
            replace(grouped, name=f"{title}-nobody", inputs={**grouped.inputs, **nobody}),
            replace(grouped, name=f"{title}-T0", inputs={**grouped.inputs, **nothing}),
        ]
    return problems


def _matmul(name: str, precision: Precision, row_format: str, shape: tuple[int, int]) -> Problem:
    """GroupedMatMul of 15 rows, 2 of them nobody's, with 5 experts, one without rows."""
    rows, columns = shape
    rng = np.random.default_rng(columns)
    stored = quantize(rng.normal(size=(5, rows, columns)) / np.sqrt(columns), precision)
    inputs = {
        "x_sorted": rng.normal(size=(15, columns)).astype(np.float32),
        "expert_offsets": np.array([0, 4, 4, 9, 10, 13], np.int32),
        "weights": stored.values,
        "bias": rng.normal(size=(5, rows)).astype(np.float32),
        "scales": stored.scales,
        "zeros": stored.zeros,
    }
    inputs = {name: array for name, array in inputs.items() if array is not None}
    attributes: dict[str, AttributeValue] = {
        "weight_format": precision.format,
        "block_size": precision.block_size,
        "row_format": row_format,
    }
    return Problem(name=name, op="GroupedMatMul", inputs=inputs, attributes=attributes)


def _linear(grouped: Problem, name: str, shape: tuple[int, ...]) -> Problem:
    """One expert of a GroupedMatMul on its first rows, as ``x [*shape, H]``."""
    of_one = {
        name: grouped.inputs[name][2] for name in ("bias", "scales", "zeros")
        if name in grouped.inputs
    }  # fmt: skip
    x = grouped.inputs["x_sorted"][: int(np.prod(shape))]
    inputs = {"x": x.reshape(*shape, x.shape[-1]), "weight": grouped.inputs["weights"][2], **of_one}
    return replace(grouped, name=name, op="Linear", inputs=inputs)


def attention_problem(
    name: str,
    batch: int = 1,
    length: int = 3,
    past: int = 4,
    heads: tuple[int, int] = (4, 2),
    sizes: tuple[int, int] = (16, 16),
    *,
    seen: Array | None = None,
    scale: float = 0.0,
) -> Problem:
    """Causal behind the cache, unless ``seen [B or 1, S, P+S]`` says otherwise."""
    rng = np.random.default_rng(23)
    (queries, cached), (width, value_width) = heads, sizes
    if seen is None:
        seen = np.tri(length, past + length, past, dtype=bool)[np.newaxis]
    shapes = {
        "query": (batch, length, queries * width),
        "key": (batch, length, cached * width),
        "value": (batch, length, cached * value_width),
        "past_key": (past, batch, cached, width),
        "past_value": (past, batch, cached, value_width),
    }
    inputs = {key: 2 * rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    inputs["mask"] = seen[:, np.newaxis]
    ordered = {key: inputs[key] for key in ("query", "key", "value", "mask")} | inputs
    attributes = {"scale": scale} if scale else {}
    return Problem(name=name, op="CachedAttention", inputs=ordered, attributes=attributes)


def attention_problems() -> list[Problem]:
    """One row and many, groups of heads, sizes that are no whole panels, every kind of mask."""
    make = attention_problem
    rng = np.random.default_rng(29)
    behind = np.arange(9)[None, :] - np.arange(5)[:, None] - 4  # of S = 5 and P = 4
    window = ((behind <= 0) & (behind > -3))[np.newaxis]
    padded = np.repeat(behind[np.newaxis] <= 0, 2, axis=0) & (
        np.arange(9) >= np.array([0, 6])[:, None, None]
    )
    some = rng.random((2, 40, 340)) < 0.2
    return [
        make("one-row"),
        make("prompt", past=0),
        make("token", length=1, past=9),
        make("token-of-many-heads", length=1, past=300, heads=(16, 2)),
        make("one-head-for-all", heads=(6, 1), length=1, past=30),
        make("a-head-each", heads=(3, 3), length=2, past=131),
        make("batch", batch=3, length=2, past=5),
        make("odd-sizes", sizes=(5, 7), batch=2, past=140),
        make("value-size", sizes=(48, 32), length=1, past=70),
        make("key-size-only-odd", sizes=(24, 16), length=30, past=200),
        make("scaled", scale=0.25),
        make("no-rows", length=0),
        make("split-keys", length=1, past=1500, heads=(2, 1)),
        make("split-keys-batch", batch=2, length=2, past=1100),
        make("many-rows", length=90, past=45),
        make("many-rows-batch", batch=2, length=70, past=200, heads=(6, 2)),
        make("window", length=5, past=4, seen=window),
        make("padding", batch=2, length=5, past=4, seen=padded),
        make("any-mask", batch=2, length=40, past=300, seen=some),
        make("nothing-seen", length=2, past=700, seen=np.zeros((1, 2, 702), bool)),
        make("the-last-seen", length=1, past=1300, seen=(np.arange(1301) == 1300)[None, None]),
        make("the-first-seen", length=1, past=1300, seen=(np.arange(1301) == 0)[None, None]),
    ]


def rotary_problem(
    name: str,
    shape: tuple[int, int, int, int] = (1, 5, 4, 16),
    half: int | None = None,
    *,
    norm: bool = False,
    epsilon: float = 0.0,
    size: float = 2.0,
) -> Problem:
    """``shape`` is B, S, N and d; heads are turned whole unless ``half`` says otherwise."""
    rng = np.random.default_rng(31)
    batch, length, heads, width = shape
    half = width // 2 if half is None else half
    angles = rng.uniform(-40, 40, size=(batch, length, half))
    inputs = {
        "x": size * rng.normal(size=(batch, length, heads * width)),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
    }
    if norm:
        inputs["norm"] = rng.uniform(-0.5, 2, size=width)
    attributes: dict[str, AttributeValue] = {"num_heads": heads}
    if epsilon:
        attributes["epsilon"] = epsilon
    stored = {key: array.astype(np.float32) for key, array in inputs.items()}
    return Problem(name=name, op="RotaryHeads", inputs=stored, attributes=attributes)


def rotary_problems() -> list[Problem]:
    """One token and many, whole heads and parts of them, widths that are no whole vectors."""
    make = rotary_problem
    problems = []
    for title, norm, epsilon in (("plain", False, 0.0), ("norm", True, 1e-6)):
        how: dict[str, Any] = {"norm": norm, "epsilon": epsilon}
        made = [
            make(title, **how),
            make(f"{title}-token", (1, 1, 8, 64), **how),
            make(f"{title}-many-tokens", (1, 70, 3, 32), **how),
            make(f"{title}-batch", (2, 7, 2, 128), **how),
            make(f"{title}-one-head", (3, 1, 1, 128), **how),
            make(f"{title}-partial", (2, 3, 4, 64), 16, **how),
            make(f"{title}-partial-24", (1, 9, 2, 24), 6, **how),
            make(f"{title}-width-10", (2, 4, 3, 10), **how),
            make(f"{title}-width-7", (1, 4, 3, 7), 3, **how),
            make(f"{title}-width-2", (1, 4, 3, 2), **how),
            make(f"{title}-no-angles", half=0, **how),
            make(f"{title}-no-rows", (2, 0, 4, 16), **how),
            make(f"{title}-no-batch", (0, 3, 4, 16), **how),
            make(f"{title}-large", size=1e15 if norm else 1e36, **how),
            make(f"{title}-tiny", size=1e-35, **how),
        ]
        problems += [*made, _spoilt_heads(made[0]), _spoilt_heads(made[6])]
    wide, exact = make("norm-epsilon-half", norm=True, epsilon=0.5), make("norm-exact", norm=True)
    zeros = exact.inputs["x"].copy()
    zeros[0, 1, 16:48] = 0  # by their root, 0: no numbers
    of_zeros = replace(exact, name="norm-exact-zeros", inputs={**exact.inputs, "x": zeros})
    only_norm = make("norm-width-1", (1, 4, 3, 1), norm=True, epsilon=1e-5)
    unread = make("plain-epsilon", epsilon=1e-6)  # without a norm nothing reads it
    return [*problems, wide, exact, of_zeros, only_norm, unread]


def _spoilt_heads(problem: Problem) -> Problem:
    """NaN, infinities and zeros in some heads; the others of the token must not notice."""
    x = problem.inputs["x"].copy()
    heads = x.reshape(*x.shape[:2], int(problem.attributes["num_heads"]), -1)
    heads[0, 0, 0] = np.nan
    heads[0, 1, 1, 0] = np.nan
    heads[0, 2, 0, 1] = np.inf
    heads[0, 3, 1, -1] = -np.inf
    heads[0, 4, 0] = np.inf
    heads[0, 4, 1] = 0
    return replace(problem, name=f"{problem.name}-nan", inputs={**problem.inputs, "x": x})


def all_problems() -> list[Problem]:
    """The whole suite; every name is unique within its op."""
    return [
        *router_problems(),
        *experts_problems(),
        *grouped_problems(),
        *stored_weight_problems(),
        *attention_problems(),
        *rotary_problems(),
    ]
