"""Tile map: whose rows a tile of a grouped GEMM holds, so that the host need not know.

Four int32 for each tile: expert (-1: none), first row, row after the last.  Offsets are clipped
into [0, S] and never run backwards, whatever they hold.
"""

import triton
import triton.language as tl


@triton.jit
def clipped_range(expert_offsets, expert, reached, rows):
    """Begin and end of each expert's rows, where `reached` is the end of those before."""
    begin = tl.minimum(tl.maximum(tl.load(expert_offsets + expert), reached), rows)
    end = tl.minimum(tl.maximum(tl.load(expert_offsets + expert + 1), begin), rows)
    return begin, end


@triton.jit
def tile_map(expert_offsets, tiles, rows, num_experts, num_tiles, block_m, BLOCK: tl.constexpr):
    """Tiles [num_tiles, 4]; one program for each expert, and one for the tiles that are left."""
    me = tl.program_id(0)
    reached = 0
    tile = 0
    # Sequential on purpose: offsets that run backwards are clipped by those before.
    for start in range(0, me, BLOCK):
        expert = start + tl.arange(0, BLOCK)
        mine = expert < me
        low = tl.load(expert_offsets + expert, mask=mine, other=0)
        high = tl.load(expert_offsets + expert + 1, mask=mine, other=0)
        # The highest offset up to and with each expert's begin and end, in [0, rows].
        top = tl.maximum(tl.associative_scan(tl.maximum(low, 0), 0, larger), reached)
        begin = tl.minimum(top, rows)
        end = tl.minimum(tl.maximum(tl.maximum(high, 0), top), rows)
        tile += tl.sum(tl.where(mine, (end - begin + block_m - 1) // block_m, 0), 0)
        reached = tl.max(tl.where(mine, end, reached), 0)
    column = tl.arange(0, 4)
    if me == num_experts:
        for start in range(tile, num_tiles, BLOCK):
            at = start + tl.arange(0, BLOCK)
            nothing = tl.full([BLOCK, 4], -1, tl.int32)
            tl.store(
                tiles + at[:, None] * 4 + column[None, :], nothing, mask=at[:, None] < num_tiles
            )
    else:
        begin, end = clipped_range(expert_offsets, me, reached, rows)
        count = (end - begin + block_m - 1) // block_m
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            first = begin + i * block_m
            last = tl.minimum(first + block_m, end)
            of_column = tl.where(column[None, :] == 0, me, first[:, None])
            of_column = tl.where(column[None, :] >= 2, last[:, None], of_column)
            at = (tile + i)[:, None]
            held = (i[:, None] < count) & (at < num_tiles)
            tl.store(tiles + at * 4 + column[None, :], of_column, mask=held)


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)
