"""The ``Router`` op: ``router_logits [T, E]`` become ``topk_weights`` and ``topk_ids [T, K]``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import RouterSpec, Score

Array = npt.NDArray[Any]

# The order of choice has three classes: numbers, then NaN, then experts outside the best groups
# (-inf).  Numbers are clipped to +-1e37 and NaN ranks at -1e38, so that the sum of two members of
# a group stays finite in float32 (2e38 < 3.4e38) and a number always outranks a NaN.
LARGEST_NUMBER = 1e37
RANK_OF_NAN = -1e38


def route(
    router_logits: Array,
    spec: RouterSpec,
    *,
    correction_bias: Array | None = None,
    expert_scale: Array | None = None,
    topk_ids: Array | None = None,
) -> tuple[Array, Array]:
    """``topk_weights [T, K]`` and ``topk_ids [T, K]`` (int32) for ``router_logits [T, E]``.

    Experts come in descending order of ``selecting_scores``, ties to the lower id.  If ``topk_ids``
    is given, that choice is replayed and only the weights are computed.  Weights are float64 where
    the logits are, float32 otherwise.

    Raises ``ValueError`` for logits, or for replayed ids, that do not fit ``spec``.
    """
    logits = _as_float(router_logits)
    _require_shape("router_logits", logits, (logits.shape[0], spec.num_experts))
    if topk_ids is None:
        ranks = selecting_scores(logits, spec, correction_bias=correction_bias)
        topk_ids = _descending(ranks)[:, : spec.top_k].astype(np.int32)
    _require_shape("topk_ids", topk_ids, (logits.shape[0], spec.top_k))
    if np.any((topk_ids < 0) | (topk_ids >= spec.num_experts)):
        raise ValueError(f"topk_ids to replay must be in [0, {spec.num_experts})")

    weights = np.take_along_axis(_scores(logits, spec.score), topk_ids.astype(np.int64), axis=1)
    if spec.score == "softmax_topk":
        weights = _softmax(weights)
    if spec.score == "sigmoid_topk":
        weights = _sigmoid(weights)
    if spec.normalize:
        weights = _normalized(weights, spec.normalize_eps, spec.normalize_min)
    if expert_scale is not None:
        weights = weights * expert_scale.astype(logits.dtype)[topk_ids]
    return weights * logits.dtype.type(spec.routed_scaling), topk_ids


def selecting_scores(
    router_logits: Array, spec: RouterSpec, *, correction_bias: Array | None = None
) -> Array:
    """The scores ``[T, E]`` by which experts are chosen: the score plus ``correction_bias``.

    Never NaN, so they can be ordered: numbers are clipped to +-1e37, a NaN score is -1e38, and an
    expert outside the best groups is -inf.
    """
    ranks = _ranks(router_logits, spec, correction_bias)
    if spec.num_groups == 1:
        return ranks
    best = _descending(_group_scores(ranks, spec))[:, : spec.topk_groups]
    allowed = np.zeros((len(ranks), spec.num_groups), dtype=bool)
    np.put_along_axis(allowed, best, values=True, axis=1)
    of_expert = np.repeat(allowed, spec.num_experts // spec.num_groups, axis=1)
    return np.where(of_expert, ranks, ranks.dtype.type(-np.inf))


def routing_margin(
    router_logits: Array, spec: RouterSpec, *, correction_bias: Array | None = None
) -> Array:
    """How far each token ``[T]`` is from choosing another set of experts.

    The selecting score of the last expert chosen minus that of the first not chosen; with groups,
    the same of the group scores where that is less.  ``+inf`` where there is no other choice.
    """
    margin = _gap(
        selecting_scores(router_logits, spec, correction_bias=correction_bias), spec.top_k
    )
    if spec.num_groups == 1:
        return margin
    group_scores = _group_scores(_ranks(router_logits, spec, correction_bias), spec)
    return np.minimum(margin, _gap(group_scores, spec.topk_groups))


def rivals(
    router_logits: Array, spec: RouterSpec, *, correction_bias: Array | None = None
) -> Array:
    """The two experts ``[T, 2]``, int32, between which ``routing_margin`` lies.

    The last expert chosen and the first not chosen; the second is -1 where there is no other
    choice, and where the nearest one is of another group.
    """
    scores = selecting_scores(router_logits, spec, correction_bias=correction_bias)
    ordered = np.pad(_descending(scores).astype(np.int32), ((0, 0), (0, 1)), constant_values=-1)
    pair = ordered[:, spec.top_k - 1 : spec.top_k + 1]
    margin = routing_margin(router_logits, spec, correction_bias=correction_bias)
    pair[_gap(scores, spec.top_k) > margin, 1] = -1
    return pair


def _gap(scores: Array, chosen: int) -> Array:
    """The ``chosen``-th largest score of each row minus the one after it."""
    if chosen == scores.shape[1]:
        return np.full(len(scores), np.inf, dtype=scores.dtype)
    ordered = np.take_along_axis(scores, _descending(scores), axis=1)
    return np.asarray(ordered[:, chosen - 1] - ordered[:, chosen])


def _ranks(router_logits: Array, spec: RouterSpec, correction_bias: Array | None) -> Array:
    """The selecting scores before any group is shut out."""
    logits = _as_float(router_logits)
    scores = _scores(logits, spec.score)
    if correction_bias is not None:
        scores = scores + correction_bias.astype(logits.dtype)
    ranks = np.clip(scores, -LARGEST_NUMBER, LARGEST_NUMBER)
    return np.where(np.isnan(scores), logits.dtype.type(RANK_OF_NAN), ranks)


def _group_scores(ranks: Array, spec: RouterSpec) -> Array:
    """``[T, G]``: the best rank of each group of neighbouring experts, or the sum of its best 2."""
    group_size = spec.num_experts // spec.num_groups
    by_group = np.sort(ranks.reshape(len(ranks), spec.num_groups, group_size), axis=-1)
    if spec.group_score == "max":
        return np.asarray(by_group[..., -1])
    return np.asarray(by_group[..., -1] + by_group[..., -2])


def _scores(logits: Array, score: Score) -> Array:
    """The score of every expert, before any choice; the logits where the score comes after it."""
    if score == "softmax":
        # A NaN logit takes no part in the softmax of the others and has no score itself.
        is_nan = np.isnan(logits)
        numbers = _softmax(np.where(is_nan, logits.dtype.type(-np.inf), logits))
        return np.where(is_nan, logits.dtype.type(np.nan), numbers)
    if score == "sigmoid":
        return _sigmoid(logits)
    return logits


def _softmax(logits: Array) -> Array:
    """Over the last axis.  A row that holds a NaN, or whose largest logit is infinite, is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _sigmoid(logits: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits)))


def _normalized(weights: Array, eps: float, smallest_sum: float) -> Array:
    total = weights.sum(axis=-1, keepdims=True) + weights.dtype.type(eps)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights / np.maximum(total, weights.dtype.type(smallest_sum)))


def _descending(scores: Array) -> Array:
    """The order of each row from the largest score to the smallest, ties to the lower index."""
    return np.argsort(-scores, axis=-1, kind="stable")


def _as_float(values: Array) -> Array:
    return values if values.dtype == np.float64 else values.astype(np.float32)


def _require_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
