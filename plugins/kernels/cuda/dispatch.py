"""Dispatch: a stable counting sort of assignments by expert, without atomics.

One program for each expert, and one more for ids outside [0, E), walks all assignments.  That reads
them E + 1 times, from the L2 cache; what it buys is an order that no schedule can change.
"""

import triton
import triton.language as tl


@triton.jit
def is_of(ids, expert, num_experts):
    outside = (ids < 0) | (ids >= num_experts)
    return tl.where(expert == num_experts, outside, ids == expert)


@triton.jit
def dispatch_count(topk_ids, counts, assignments, num_experts, BLOCK_S: tl.constexpr):
    """`counts` [E+1]: how many assignments each expert has; the last is of ids outside [0, E)."""
    expert = tl.program_id(0)
    count = tl.full([BLOCK_S], 0, tl.int32)
    for start in range(0, assignments, BLOCK_S):
        at = start + tl.arange(0, BLOCK_S)
        inside = at < assignments
        ids = tl.load(topk_ids + at, mask=inside, other=0)
        count += (inside & is_of(ids, expert, num_experts)).to(tl.int32)
    tl.store(counts + expert, tl.sum(count, 0))


@triton.jit
def dispatch_scatter(
    topk_ids, counts, order, expert_offsets, assignments, num_experts, BLOCK_S: tl.constexpr
):
    """`order` [S] and expert_offsets [E+1] of the counts."""
    expert = tl.program_id(0)
    before = tl.full([BLOCK_S], 0, tl.int32)
    for start in range(0, expert, BLOCK_S):
        at = start + tl.arange(0, BLOCK_S)
        before += tl.load(counts + at, mask=at < expert, other=0)
    place = tl.sum(before, 0)
    tl.store(expert_offsets + expert, place)
    for start in range(0, assignments, BLOCK_S):
        at = start + tl.arange(0, BLOCK_S)
        inside = at < assignments
        ids = tl.load(topk_ids + at, mask=inside, other=0)
        mine = inside & is_of(ids, expert, num_experts)
        rank = tl.cumsum(mine.to(tl.int32), 0)
        tl.store(order + place + rank - 1, at, mask=mine)
        place += tl.sum(mine.to(tl.int32), 0)
