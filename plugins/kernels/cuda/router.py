"""Router: the logits of one token become its experts and their weights (steps: docs/ops.md).

One program a token, the experts in one vector.  Scores are those of `enum class Score`: softmax 0,
sigmoid 1, softmax_topk 2, sigmoid_topk 3.
"""

import triton
import triton.language as tl
from exponential import exp, sigmoid

# The classes of rank: numbers, then NaN, then experts outside the best groups (-inf).
LARGEST_NUMBER = tl.constexpr(1e37)
RANK_OF_NAN = tl.constexpr(-1e38)
NONE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def softmax(x, among):
    """Of the numbers where `among`.  A NaN stays; without a finite largest all are NaN."""
    is_number = among & (x == x)
    largest = tl.max(tl.where(is_number, x, float("-inf")), 0)
    shifted = tl.where(is_number, x - largest, float("-inf"))  # inf - inf: NaN
    powers = exp(shifted)
    of_sum = tl.full(x.shape, 0.0, tl.float32) + tl.sum(powers, 0)
    return tl.where(is_number, tl.div_rn(powers, of_sum), float("nan"))


@triton.jit
def first_largest(ranks, ids):
    """The lowest of `ids` among the largest ranks, which hold no NaN."""
    return tl.min(tl.where(ranks == tl.max(ranks, 0), ids, NONE), 0)


@triton.jit
def best_groups(ranks, ids, is_expert, num_experts, num_groups, topk_groups, top2):
    """Where an expert's group is one of the best `topk_groups`."""
    size = num_experts // num_groups
    group = ids // size
    score = tl.full(ranks.shape, float("-inf"), tl.float32)
    for g in range(num_groups):
        members = tl.where(is_expert & (group == g), ranks, float("-inf"))
        of_group = tl.max(members, 0)
        if top2 != 0:
            first = first_largest(members, ids)
            of_group += tl.max(tl.where(ids == first, float("-inf"), members), 0)
        # A group of one has no second; it still ranks above a group that is taken.
        score = tl.where(group == g, tl.maximum(of_group, -3e38), score)
    is_open = ids < 0
    for _ in range(topk_groups):
        best = first_largest(tl.where(is_expert & (is_open == 0), score, float("-inf")), ids)
        is_open = is_open | (group == best // size)
    return is_open


@triton.jit
def router(
    logits,
    correction_bias,
    expert_scale,
    topk_weights,
    topk_ids,
    num_experts,
    top_k,
    score_kind,
    normalize,
    normalize_eps,
    normalize_min,
    num_groups,
    topk_groups,
    top2,
    routed_scaling,
    has_bias,
    has_scale,
    BLOCK_E: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    ids = tl.arange(0, BLOCK_E)
    is_expert = ids < num_experts
    raw = tl.load(logits + token * num_experts + ids, mask=is_expert, other=0.0)
    scores = raw
    if score_kind == 0:
        scores = softmax(raw, is_expert)
    if score_kind == 1:
        scores = sigmoid(raw)
    selecting = scores
    if has_bias != 0:
        selecting += tl.load(correction_bias + ids, mask=is_expert, other=0.0)
    clipped = tl.minimum(tl.maximum(selecting, -LARGEST_NUMBER), LARGEST_NUMBER)
    ranks = tl.where(selecting == selecting, clipped, RANK_OF_NAN)
    if num_groups > 1:
        is_open = best_groups(ranks, ids, is_expert, num_experts, num_groups, topk_groups, top2)
        ranks = tl.where(is_open, ranks, float("-inf"))
    ranks = tl.where(is_expert, ranks, float("-inf"))

    # The place of each expert among the chosen; -1 where it is not.  K experts rank above -inf.
    place = tl.full([BLOCK_E], -1, tl.int32)
    for k in range(top_k):
        best = first_largest(ranks, ids)
        place = tl.where(ids == best, k, place)
        ranks = tl.where(ids == best, float("-inf"), ranks)
    chosen = place >= 0

    weights = scores
    if score_kind == 2:
        weights = softmax(raw, chosen)
        # Here a NaN among the chosen is in the sum.
        spoilt = tl.sum(tl.where(chosen & (raw != raw), 1, 0), 0)
        weights = tl.where(spoilt > 0, float("nan"), weights)
    if score_kind == 3:
        weights = sigmoid(raw)
    if normalize != 0:
        total = tl.sum(tl.where(chosen, weights, 0.0), 0) + normalize_eps
        total = tl.where(total < normalize_min, normalize_min, total)  # a NaN stays
        weights = tl.div_rn(weights, tl.full([BLOCK_E], 0.0, tl.float32) + total)
    if has_scale != 0:
        weights *= tl.load(expert_scale + ids, mask=is_expert, other=0.0)
    weights *= routed_scaling
    tl.store(topk_weights + token * top_k + place, weights, mask=chosen)
    tl.store(topk_ids + token * top_k + place, ids, mask=chosen)
