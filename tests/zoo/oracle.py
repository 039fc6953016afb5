"""What a router and its experts compute, written one token and one expert at a time.

This is a judge of the zoo's own labels, so it shares no line with the implementations under test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moe_export.moe.layer import ExpertsSpec, RouterSpec

from .reading import Array, Reading

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Verdict:
    """``y [T,Hout]``, and the experts and weights of each token in the order of the choice.

    ``margin`` is the least distance between any two values that a choice compared.
    """

    y: Array
    ids: list[list[int]]
    weights: list[list[float]]
    margin: float


def _sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def _softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = sum(math.exp(v - top) for v in row)
    return [math.exp(v - top) / total for v in row]


def _best(values: list[float], count: int) -> tuple[list[int], float]:
    """The positions of the ``count`` largest, and by how much they won."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    if count == len(values):
        return order, math.inf
    return order[:count], values[order[count - 1]] - values[order[count]]


def _choose(router: RouterSpec, selecting: list[float]) -> tuple[list[int], float]:
    size = router.num_experts // router.num_groups
    group_scores = []
    for start in range(0, router.num_experts, size):
        members = sorted(selecting[start : start + size], reverse=True)
        best = 2 if router.group_score == "top2_sum" and router.num_groups > 1 else 1
        group_scores.append(sum(members[:best]))
    groups, group_margin = _best(group_scores, router.topk_groups)
    allowed = [s if e // size in groups else -math.inf for e, s in enumerate(selecting)]
    ids, margin = _best(allowed, router.top_k)
    return ids, min(margin, group_margin)


def route(
    router: RouterSpec, logits: list[float], reading: Reading
) -> tuple[list[int], list[float], float]:
    """The experts of one token, their weights, and the margin of the choice."""
    if router.score == "softmax":
        scores = _softmax(logits)
    elif router.score == "sigmoid":
        scores = [_sigmoid(v) for v in logits]
    else:
        scores = list(logits)
    selecting = scores
    if router.has_correction_bias:
        assert reading.correction_bias is not None
        selecting = [s + float(b) for s, b in zip(scores, reading.correction_bias, strict=True)]
    ids, margin = _choose(router, selecting)

    weights = [scores[e] for e in ids]
    if router.score == "softmax_topk":
        weights = _softmax(weights)
    if router.score == "sigmoid_topk":
        weights = [_sigmoid(v) for v in weights]
    if router.normalize:
        divisor = max(sum(weights) + router.normalize_eps, router.normalize_min)
        weights = [w / divisor for w in weights]
    if router.has_expert_scale:
        assert reading.expert_scale is not None
        weights = [w * float(reading.expert_scale[e]) for w, e in zip(weights, ids, strict=True)]
    return ids, [w * router.routed_scaling for w in weights], margin


def _act(experts: ExpertsSpec, v: Array) -> Array:
    if experts.activation == "silu":
        return np.array([z * _sigmoid(z) for z in v])
    if experts.activation == "gelu":
        return np.array([0.5 * z * (1 + math.erf(z / math.sqrt(2))) for z in v])
    if experts.activation == "gelu_tanh":
        inner = math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)
        return np.array([0.5 * z * (1 + math.tanh(i)) for z, i in zip(v, inner, strict=True)])
    if experts.activation == "identity":
        return v
    positive = np.array([max(z, 0.0) for z in v])
    return positive**2 if experts.activation == "relu2" else positive


def _row(bias: Array | None, e: int) -> Array | float:
    return 0.0 if bias is None else bias[e]


def _hidden(experts: ExpertsSpec, reading: Reading, e: int, x: Array) -> Array:
    if reading.up is None:
        return x
    up = reading.up[e] @ x + _row(reading.up_bias, e)
    if not experts.gated:
        return _act(experts, up)
    assert reading.gate is not None
    gate = reading.gate[e] @ x + _row(reading.gate_bias, e)
    if experts.activation != "swiglu_clamped":
        return _act(experts, gate) * up
    gate = np.minimum(gate, experts.limit)
    up = np.clip(up, -experts.limit, experts.limit)
    return gate * np.array([_sigmoid(experts.alpha * g) for g in gate]) * (up + 1)


def _magnitude(reading: Reading, e: int, x: Array) -> float:
    """The largest output of expert ``e`` if nothing cancelled and every activation passed."""
    hidden = np.abs(x)
    if reading.up is not None:
        up = np.abs(reading.up[e]) @ hidden + np.abs(_row(reading.up_bias, e)) + 1
        other = up if reading.gate is None else np.abs(reading.gate[e]) @ hidden + 1
        # relu2 is the steepest ungated activation, and a gate multiplies two sums
        hidden = up * (other + np.abs(_row(reading.gate_bias, e)))
    return float((np.abs(reading.down[e]) @ hidden + np.abs(_row(reading.down_bias, e))).max())


def router_logits(reading: Reading, x: Array) -> Array:
    """``[T,E]`` of tokens ``x [T,H]``."""
    logits: Array = reading.to_router(x) @ reading.router.T
    return logits if reading.router_bias is None else logits + reading.router_bias


def compute(router: RouterSpec, experts: ExpertsSpec, reading: Reading, x: Array) -> Verdict:
    """The block on tokens ``x [T,H]``, as the specifications say."""
    to_experts, beside, logits = reading.to_experts(x), reading.beside(x), router_logits(reading, x)
    routed = [route(router, row.tolist(), reading) for row in logits]
    y = []
    for t, (ids, weights, _) in enumerate(routed):
        row = np.array(beside[t])
        for e, weight in zip(ids, weights, strict=True):
            before, after = (weight, 1) if experts.weight_on == "input" else (1, weight)
            hidden = _hidden(experts, reading, e, before * to_experts[t])
            row += after * (reading.down[e] @ hidden + _row(reading.down_bias, e))
        y.append(row)
    ids, weights, margins = zip(*routed, strict=True)
    return Verdict(np.array(y), list(ids), list(weights), min(margins))


def rounding(verdict: Verdict, reading: Reading, x: Array) -> Array:
    """Per token, how much float64 rounding may move the output in any order of summation.

    There are three sums (router, up, down) of at most E + H + I + Hout terms together.  An error
    in a logit moves a weight by at most its own size and grows with the router's sum of |w||x|.
    """
    to_router, to_experts, beside = reading.to_router(x), reading.to_experts(x), reading.beside(x)
    terms = sum(reading.down.shape) + x.shape[1]
    logits = 1 + (np.abs(to_router) @ np.abs(reading.router).T).max(-1)
    sizes = np.abs(beside).max(-1)
    for t, (ids, weights) in enumerate(zip(verdict.ids, verdict.weights, strict=True)):
        for e, weight in zip(ids, weights, strict=True):
            sizes[t] += max(abs(weight), 1) * _magnitude(reading, e, to_experts[t])
    bound: Array = 4 * terms * _EPS * logits * sizes
    return bound
