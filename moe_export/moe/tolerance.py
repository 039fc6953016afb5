"""How far a correct implementation of an op may be from its exact result: derived, never picked.

The model is the standard one: ``fl(a op b) = (a op b)(1 + d) + n`` with ``|d| <= eps`` and ``|n|``
at most the smallest normal float32 (flushed underflow).  A sum of n products then errs by at most
``gamma(n) * sum |a||b|`` in any order of summation (N. J. Higham, *Accuracy and Stability of
Numerical Algorithms*, 2nd ed., chapter 3).  ``eps`` is the spacing at 1, twice the unit roundoff,
which also covers arithmetic that rounds faithfully instead of to nearest.

Each bound is for one implementation against the exact result; two implementations may differ by
the sum of their bounds.  Where the exact result is not finite a bound means nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import Activation, ExpertsSpec, RouterSpec, RowFormat
from moe_export.moe.reference import activate, dequantize, split_gate
from moe_export.moe.row_errors import rounded_rows

Array = npt.NDArray[Any]

FLOAT32_EPS = float(np.finfo(np.float32).eps)
UNDERFLOW = float(np.finfo(np.float32).tiny)

# exp, erf and tanh are good to 4 eps: ONNX Runtime's and PyTorch's CPU code and CUDA's libm (at
# most 2 ulp, CUDA C Programming Guide, "Mathematical Functions") all keep to that.
FUNCTION_ROUNDINGS = 4

# An activation is x times a function in [0, 1].  Counted in eps * |x|, silu errs by 4 in exp, 3 in
# adding 1, dividing and multiplying, and less than 1 in alpha * x (2 roundings, times the largest
# z sigmoid'(z) = 0.224).  gelu_tanh errs by 4/2 in tanh, 2 around it and 1.4 in its argument (6
# roundings, times the largest z tanh'(z)/2 = 0.224); gelu by less.
ACTIVATION_ROUNDINGS = FUNCTION_ROUNDINGS + 1 + 3

# The largest slope of each activation: silu at 2.3994, gelu at sqrt(2) where it is
# Phi(sqrt 2) + sqrt(2) phi(sqrt 2) = 1.12891, gelu_tanh 1.12900.  gate * sigmoid(alpha * gate) is
# silu(alpha * gate) / alpha and has the slope of silu.  relu2 has none: see _activation_error.
LIPSCHITZ: dict[Activation, float] = {
    "silu": 1.0999,
    "gelu": 1.1290,
    "gelu_tanh": 1.1290,
    "relu": 1.0,
    "identity": 1.0,
    "swiglu_clamped": 1.0999,
}


def gamma(n: int, eps: float = FLOAT32_EPS) -> float:
    """``n eps / (1 - n eps)``: the relative error that n roundings may leave (Higham, 3.1)."""
    if n * eps >= 1:
        raise ValueError(f"{n} roundings of {eps:g} leave nothing to bound")
    return n * eps / (1 - n * eps)


def linear_bound(
    x: Array,
    matrix: Array,
    bias: Array | None = None,
    *,
    row_format: RowFormat = "f32",
    eps: float = FLOAT32_EPS,
) -> Array:
    """Bound of ``x [.., H] @ matrix [N, H].T + bias [N]``, elementwise ``[.., N]``.

    ``matrix`` holds numbers, dequantised; x itself is exact and rounded to ``row_format``.
    """
    rows, error = rounded_rows(_f64(x), np.zeros(()), row_format, eps)
    return _linear_error(rows, error, _f64(matrix), bias, eps)


def combine_bound(rows: Array, topk_weights: Array, *, eps: float = FLOAT32_EPS) -> Array:
    """Bound of the weighted sum over K of ``rows [T, K, N]``, elementwise ``[T, N]``."""
    terms = np.abs(_f64(rows)) * np.abs(_f64(topk_weights))[..., np.newaxis]
    top_k = rows.shape[1]
    return np.asarray(gamma(top_k + 1, eps) * terms.sum(axis=1) + (top_k + 1) * UNDERFLOW)


def experts_bound(
    x: Array,
    topk_ids: Array,
    topk_weights: Array,
    spec: ExpertsSpec,
    *,
    down: Array,
    up: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    up_scales: Array | None = None,
    up_zeros: Array | None = None,
    down_scales: Array | None = None,
    down_zeros: Array | None = None,
    eps: float = FLOAT32_EPS,
    weights_error: Array | float = 0.0,
) -> Array:
    """Bound of the ``Experts`` op, elementwise ``[T, Hout]``, for arithmetic of spacing ``eps``.

    With a hat for what is computed, L and c the activation's Lipschitz constant and roundings::

        |h^ - h| <= gamma(H + 4) (|x||up|^T + |b|)                  =: d        both projections
        |a^ - a| <= L d + c eps (|gate| + d), times (|value| + d), + |a| d      the activation
        |y^ - y| <= gamma(I + 4) ((|a| + |a^ - a|)|down|^T + |b|) + |a^ - a| |down|^T

    then times the weight, and ``gamma(K + 1)`` of the weighted sum.  The 4 in ``gamma(n + 4)`` are
    the bias, dequantisation, the scale of int8 rows and the weight on the input.  Where rows are
    rounded, x and a stand for the rounded rows and ``row_errors.py`` bounds what they are off by.
    ``weights_error`` is an error that ``topk_weights`` already carry.
    """
    weights = {"up": (up, up_scales, up_zeros, up_bias)}
    weights["down"] = (down, down_scales, down_zeros, down_bias)
    top_k = topk_ids.shape[1]
    ids, x = topk_ids.reshape(-1), _f64(x)
    scale = _f64(topk_weights).reshape(-1, 1)
    scale_error = np.broadcast_to(_f64(weights_error), topk_weights.shape).reshape(-1, 1)
    size = np.zeros((ids.size, spec.output_size))
    error = np.zeros_like(size)
    for expert in np.unique(ids[(ids >= 0) & (ids < spec.num_experts)]):
        chosen = np.flatnonzero(ids == expert)
        rows, row_error = x[chosen // top_k], np.zeros(())
        if spec.weight_on == "input":
            row_error = np.abs(rows) * scale_error[chosen]
            rows = rows * scale[chosen]
            if spec.row_format != "f32":
                # Here the product's own rounding comes before another and is not in gamma.
                row_error = row_error + eps * (np.abs(rows) + row_error) + UNDERFLOW
        for name in ("up", "down") if up is not None else ("down",):
            matrix, bias = _matrix(weights[name], int(expert), spec.block_size)
            rows, row_error = rounded_rows(rows, row_error, spec.row_format, eps)
            row_error = _linear_error(rows, row_error, matrix, bias, eps)
            rows = rows @ matrix.T + (0 if bias is None else bias)
            if name == "up":
                rows, row_error = _activated(rows, row_error, spec, eps)
        if spec.weight_on == "output":
            row_error = row_error * np.abs(scale[chosen]) + np.abs(rows) * scale_error[chosen]
            rows = rows * scale[chosen]
        size[chosen], error[chosen] = np.abs(rows), row_error
    total = (size + error).reshape(*topk_ids.shape, spec.output_size).sum(axis=1)
    return np.asarray(
        error.reshape(*topk_ids.shape, spec.output_size).sum(axis=1)
        + gamma(top_k + 1, eps) * total
        + (top_k + 1) * UNDERFLOW
    )


def attention_bound(
    query: Array,
    keys: Array,
    values: Array,
    mask: Array,
    *,
    scale: float = 0.0,
    eps: float = FLOAT32_EPS,
) -> Array:
    """Bound of ``CachedAttention``'s y, elementwise ``[B, S, N*v]``.

    ``keys [T,B,M,d]`` and ``values [T,B,M,v]`` are those of cache and rows together.  A score errs
    by ``e = gamma(d + 3) |q||k| scale``, which moves a softmax by ``expm1(2 e)`` beside what its
    own arithmetic costs, as in ``router_bound``.  A running maximum adds an exponential and three
    roundings, and the weighted sum ``gamma(T)``.
    """
    batch, length, _ = query.shape
    total, _, heads, width = keys.shape
    group = query.shape[2] // (heads * width)
    queries = _f64(query).reshape(batch, length, heads, group, width)
    queries = queries * (scale or 1 / np.sqrt(width))
    scores, sizes = (
        np.einsum("bsmgd,tbmd->bmgst", q, k)
        for q, k in ((queries, _f64(keys)), (np.abs(queries), np.abs(_f64(keys))))
    )
    seen = np.broadcast_to(mask[:, :, np.newaxis], scores.shape)
    flat = (-1, total)
    numbers = np.where(seen, scores, np.nan).reshape(flat)
    error = np.where(seen, gamma(width + 3, eps) * sizes, 0).reshape(flat)
    probs, relative = _probs(numbers, "softmax", eps, error)
    relative = relative + (3 + FUNCTION_ROUNDINGS) * eps + gamma(total, eps)
    spread = np.where(seen, np.nan_to_num(probs * relative + UNDERFLOW).reshape(scores.shape), 0)
    y = np.einsum("bmgst,tbmv->bsmgv", spread, np.abs(_f64(values)))
    return np.asarray(y.reshape(batch, length, heads * group * values.shape[3]) + UNDERFLOW)


def rotary_heads_bound(
    x: Array,
    cos: Array,
    sin: Array,
    norm: Array | None = None,
    *,
    num_heads: int,
    epsilon: float = 0.0,
    eps: float = FLOAT32_EPS,
) -> Array:
    """Bound of ``RotaryHeads``, elementwise ``[B, S, N*d]``.

    With z a number of a head, q what its root is taken of and a hat for what is computed::

        |q^ - q| <= r q,  r = gamma(d + 4) + 3 UNDERFLOW / q
        |z^ - z| <= ((1 + gamma(6)) / sqrt(1 - r) - 1) |z| + (|norm| + 1) UNDERFLOW   =: e
        |y^ - y| <= e |cos| + e' |sin| + gamma(2) ((|z| + e)|cos| + (|z'| + e')|sin|)

    q is a mean of squares, none of them negative, so its error is relative: d in the sum, two of
    its division by d, one in adding ``epsilon`` and one of the float32 that holds that.  Squares,
    mean and sum may lose an underflow each.  The root and its reciprocal err by no more than a
    function does, and two products follow: 4 + 2 roundings.  A rotation is two products, of z and
    of z' in the other half, and their sum.  Numbers behind the halves are not moved, and without
    ``norm`` e is 0.
    """
    batch, length, row = x.shape
    heads = _f64(x).reshape(batch, length, num_heads, row // num_heads)
    error = np.zeros_like(heads)
    if norm is not None:
        heads, error = _normed(heads, _f64(norm), epsilon, eps)
    turn = [np.abs(_f64(part))[:, :, np.newaxis] for part in (cos, sin)]
    half = cos.shape[2]
    sizes, bound = np.abs(heads) + error, error.copy()
    for mine, other in ((0, half), (half, 0)):
        moved, computed = (
            part[..., mine : mine + half] * turn[0] + part[..., other : other + half] * turn[1]
            for part in (error, sizes)
        )
        bound[..., mine : mine + half] = moved + gamma(2, eps) * computed + 3 * UNDERFLOW
    return np.asarray(bound.reshape(x.shape))


def _normed(heads: Array, norm: Array, epsilon: float, eps: float) -> tuple[Array, Array]:
    """``heads [..,d]`` by their root mean square, times ``norm``, and the bound of the error."""
    width = heads.shape[-1]
    under_root = np.mean(heads * heads, axis=-1, keepdims=True) + epsilon
    with np.errstate(divide="ignore", invalid="ignore"):
        normed = heads / np.sqrt(under_root) * norm
        off = gamma(width + 4, eps) + 3 * UNDERFLOW / under_root
        shrunk = np.sqrt(np.maximum(1 - off, 0))
        relative = (1 + gamma(FUNCTION_ROUNDINGS + 2, eps)) / shrunk - 1
        error = np.where(normed == 0, 0, np.abs(normed) * relative)
    return normed, error + (np.abs(norm) + 1) * UNDERFLOW


def selecting_scores_bound(
    router_logits: Array,
    spec: RouterSpec,
    *,
    correction_bias: Array | None = None,
    eps: float = FLOAT32_EPS,
    logits_error: Array | float = 0.0,
) -> Array:
    """Bound of the selecting scores before groups, elementwise ``[T, E]``.

    Two implementations choose the same experts wherever the routing margin exceeds twice the
    largest bound of the row (four times, where group scores are sums of two).
    """
    logits = _f64(router_logits)
    if spec.score.endswith("_topk"):
        error = np.broadcast_to(_f64(logits_error), logits.shape)
        scores = logits
    else:
        scores, relative = _probs(logits, spec.score, eps, logits_error)
        error = scores * relative + UNDERFLOW
    if correction_bias is not None:
        error = error + eps * (np.abs(scores + _f64(correction_bias)) + error)
    return np.asarray(error)


def router_bound(
    router_logits: Array,
    topk_ids: Array,
    spec: RouterSpec,
    *,
    expert_scale: Array | None = None,
    eps: float = FLOAT32_EPS,
    logits_error: Array | float = 0.0,
) -> Array:
    """Bound of ``topk_weights [T, K]`` for the choice ``topk_ids``, elementwise.

    Relative errors to first order and their products: an exponential ``exp(l - max)`` carries
    ``eps |l - max|`` from its argument and 4 of its own; a softmax adds the same of its sum,
    weighted by probability, ``gamma(n)`` and a division.  A sigmoid carries 4 and two roundings.
    Normalizing adds the largest error of the row's scores, ``gamma(K + 2)`` and a division; each
    factor after it one.  An error d of the logits moves a softmax by ``expm1(2 d)`` and a sigmoid
    by ``expm1(d)``.
    """
    ids = topk_ids.astype(np.int64)
    logits = _f64(router_logits)
    error = np.broadcast_to(_f64(logits_error), logits.shape)
    if spec.score.endswith("_topk"):
        logits, error = (np.take_along_axis(a, ids, axis=1) for a in (logits, error))
        weights, relative = _probs(logits, spec.score.removesuffix("_topk"), eps, error)
    else:
        probs = _probs(logits, spec.score, eps, error)
        weights, relative = (np.take_along_axis(a, ids, axis=1) for a in probs)
    absolute = np.full_like(weights, UNDERFLOW)
    if spec.normalize:
        total = weights.sum(axis=1, keepdims=True) + spec.normalize_eps
        total = np.maximum(total, max(spec.normalize_min, UNDERFLOW))
        weights = weights / total
        absolute = (absolute + weights * spec.top_k * UNDERFLOW) / total + UNDERFLOW
        worst = relative.max(axis=1, keepdims=True)
        relative = relative + worst + gamma(spec.top_k + 2, eps) + eps
    if expert_scale is not None:
        scale = _f64(expert_scale)[ids]
        weights, absolute = weights * scale, absolute * np.abs(scale)
    factor = abs(spec.routed_scaling)
    # One rounding for each factor and one for the float32 that holds routed_scaling.
    relative = relative + 3 * eps
    relative = relative / np.maximum(1 - relative, 0.5)
    return np.asarray(np.abs(weights) * factor * relative + absolute * factor + UNDERFLOW)


def _probs(
    logits: Array, score: str, eps: float, logits_error: Array | float
) -> tuple[Array, Array]:
    """The probabilities of ``logits [T, n]`` and the bound of their relative error."""
    if score == "sigmoid":
        with np.errstate(over="ignore"):
            probs = 1 / (1 + np.exp(-logits))
        relative = (FUNCTION_ROUNDINGS + 2) * eps + np.expm1(_f64(logits_error))
        return probs, np.broadcast_to(relative, probs.shape)
    numbers = np.where(np.isnan(logits), -np.inf, logits)
    with np.errstate(invalid="ignore"):
        shifted = numbers - numbers.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        probs = exponentials / exponentials.sum(axis=1, keepdims=True)
        # exp(-inf) is 0 exactly, however large its argument.
        argument = np.where(exponentials > 0, np.abs(shifted), 0)
    own = (argument + FUNCTION_ROUNDINGS) * eps
    of_sum = (probs * own).sum(axis=1, keepdims=True) + gamma(logits.shape[1], eps)
    worst = np.max(np.broadcast_to(_f64(logits_error), logits.shape), axis=1, keepdims=True)
    return probs, own + of_sum + eps + np.expm1(2 * worst)


def _activated(hidden: Array, error: Array, spec: ExpertsSpec, eps: float) -> tuple[Array, Array]:
    """What the activation makes of ``hidden``, and the bound of its error."""
    if not spec.gated:
        return activate(spec.activation, hidden), _activation_error(
            spec.activation, hidden, error, eps
        )
    gate, value = split_gate(hidden, spec.gate_layout)
    gate_error, value_error = split_gate(error, spec.gate_layout)
    inner = activate(spec.activation, gate, value, alpha=spec.alpha, limit=spec.limit)
    if spec.activation == "swiglu_clamped":
        gate = np.minimum(gate, spec.limit)
        value = np.clip(value, -spec.limit, spec.limit) + 1
        value_error = value_error + 2 * eps * np.abs(value) + eps * spec.limit
        activated = gate / (1 + np.exp(-spec.alpha * gate))
    else:
        activated = activate(spec.activation, gate)
    activated_error = _activation_error(spec.activation, gate, gate_error, eps)
    product_error = (
        activated_error * (np.abs(value) + value_error) + np.abs(activated) * value_error
    )
    return inner, product_error + eps * (np.abs(inner) + product_error) + UNDERFLOW


def _activation_error(activation: Activation, x: Array, error: Array, eps: float) -> Array:
    if activation == "relu2":
        # |(x + d)^2 - x^2| <= (2|x| + d) d, and one rounding of the square.
        moved = (2 * np.abs(x) + error) * error
        return np.asarray(moved + eps * (x * x + moved) + UNDERFLOW)
    evaluated = ACTIVATION_ROUNDINGS * eps * (np.abs(x) + error)
    return np.asarray(LIPSCHITZ[activation] * error + evaluated + UNDERFLOW)


def _linear_error(x: Array, x_error: Array, matrix: Array, bias: Array | None, eps: float) -> Array:
    """Bound of ``x @ matrix.T + bias`` where x itself is off by at most ``x_error``."""
    length = matrix.shape[1] + 4
    size = np.abs(matrix).T
    carried = x_error @ size if x_error.ndim else np.zeros(())
    terms = np.abs(x) @ size + carried
    if bias is not None:
        terms = terms + np.abs(_f64(bias))
    return np.asarray(carried + gamma(length, eps) * terms + length * UNDERFLOW)


def _matrix(
    weight: tuple[Array | None, Array | None, Array | None, Array | None],
    expert: int,
    block_size: int,
) -> tuple[Array, Array | None]:
    stored, scales, zeros, bias = (None if array is None else array[expert] for array in weight)
    if stored is None:
        raise ValueError("an expert without a matrix")
    matrix = dequantize(stored, np.float64, scales=scales, zeros=zeros, block_size=block_size)
    return matrix, None if bias is None else _f64(bias)


def _f64(values: Array | float) -> Array:
    return np.asarray(values, dtype=np.float64)
