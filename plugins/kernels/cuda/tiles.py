"""Tiles as data: which variants of a kernel are built, and how large tiles are on each SM.

A variant has one name on every SM; its tile may differ.  `kernels()` is all that the build compiles
and all that the launcher can choose from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SMS = ("80", "86", "89", "90a", "100a", "103a", "110a", "120a")

# PTX 8.0 is what CUDA 12.0 reads; later ISAs came with the SMs that need them.
PTX_VERSIONS = {
    "80": 80,
    "86": 80,
    "89": 80,
    "90a": 80,
    "100a": 86,
    "103a": 88,
    "110a": 90,
    "120a": 87,
}

# Bytes of shared memory that one block may have (CUDA C++ Programming Guide, "Technical
# Specifications per Compute Capability").
SHARED_LIMITS = {
    "80": 163 << 10, "86": 99 << 10, "89": 99 << 10, "90a": 227 << 10,
    "100a": 227 << 10, "103a": 227 << 10, "110a": 227 << 10, "120a": 99 << 10,
}  # fmt: skip

TENSOR_MEMORY = ("100a", "103a", "110a")  # SMs whose sums lie there, not in registers
LARGE_SHARED = ("90a", *TENSOR_MEMORY)


@dataclass(frozen=True)
class Tile:
    """BM rows times BN features (of the gate and of the value each), BK columns at a time."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    left: bool = False


@dataclass(frozen=True)
class Kernel:
    """One entry of the module: a function of plugins/kernels/cuda with its constants."""

    name: str
    source: str
    function: str
    types: dict[str, str]
    constants: dict[str, int | str]
    warps: int = 4
    stages: int = 1
    aligned: tuple[str, ...] = ()  # arguments that are multiples of 16
    row: dict[str, int | str] = field(default_factory=dict)  # what the launcher chooses by


# How weights are stored: the code in stored.py, the type of a pointer to them.  Blocks that share a
# scale are 32 columns or a multiple of that, wide ones 128 or a multiple.
STORED = {
    "bf16": (0, "*bf16"),
    "f16": (0, "*fp16"),
    "f32": (0, "*fp32"),
    "int8row": (1, "*i8"),
    "int8": (2, "*i8"),
    "int8wide": (2, "*i8"),
    "int4": (3, "*i8"),
    "int4wide": (3, "*i8"),
}
IN_BLOCKS, IN_WIDE_BLOCKS = ("int8", "int4"), ("int8wide", "int4wide")

# What a block of a grouped GEMM costs at least is reading its expert's weights, so a few tokens do
# without it, its dispatch and its tile map, as long as they hardly read a matrix twice: S
# assignments of at most 1.15 times the experts that random routing would choose.  Measured on an
# H200 for H2048 I768 E128 K8: both ways take the same time at T = 4 in int4 and at T = 8 in bf16,
# where the two are 1.10 and 1.25 times.
DECODE_TOKENS = 16
DECODE_REREADS = 1.15

# Rows of a tile for the mean number of assignments of an expert, S / E; measured as above for T of
# 16 to 1024: some 8 % at most over the best.
ROWS_OF_TILE = {8: 16, 24: 32, 64: 64}
LARGEST_ROWS = 128
TILE_ROWS = (*ROWS_OF_TILE.values(), LARGEST_ROWS)


def tile_rows(stored: str, gated: bool) -> tuple[int, ...]:
    """Rows of the tiles that there are; where one is asked for that is not, the next smaller runs.

    A gate and a value in blocks leave a tile of 128 rows registers for few features, and a
    multiprocessor for one tile.  In 64 rows they take 1 to 32 % less time on an H200, for T of 2048
    to 8192 and all four formats.
    """
    in_blocks = stored in IN_BLOCKS + IN_WIDE_BLOCKS
    return TILE_ROWS[:-1] if gated and in_blocks else TILE_ROWS


def tile_of(sm: str, stored: str, gated: bool, bm: int) -> Tile:
    """The tile of `bm` rows.  A gated tile has a gate and a value, so half as many features."""
    if sm == "90a":
        return HOPPER[stored, gated][tile_rows(stored, gated).index(bm)]
    if stored in IN_BLOCKS + IN_WIDE_BLOCKS:
        return _tile_in_blocks(sm, stored, gated, bm)
    if bm <= 32:
        # Bound by reading weights: wide in K, four stages in flight, 72 KiB.
        return Tile(bm, 64 if gated else 128, 64, 4, 4)
    if sm == "120a" and stored == "int8row" and gated:
        # 64 columns of both matrices on their way to bfloat16 spill there.
        return Tile(bm, 64, 32, 8 if bm == 128 else 4, 4)
    if bm == 64:
        return Tile(64, 64 if gated else 128, 64, 4, 4 if sm == "80" or sm in LARGE_SHARED else 3)
    # 96 KiB (one stage is in registers): SM 8.6, 8.9 and 12.0 have 99, and sm_80's PTX runs there
    # too.
    return Tile(128, 64 if gated else 128, 64, 8, 4)


def _tile_in_blocks(sm: str, stored: str, gated: bool, bm: int) -> Tile:
    # A dot must not cross a block that shares a scale.  Beside the sums there are those of one
    # block, which spill where a tile has as many features as one of bfloat16.
    bn, warps = 64 if gated else 128, 8 if bm == 128 else 4
    if stored in IN_WIDE_BLOCKS:
        stages = 2 if bm == 32 and not gated else 3
        columns = 64 if bm == 64 and gated and sm == "120a" else 128
        return Tile(bm, bn if bm <= 32 else bn // 2, columns, warps, stages)
    narrow = bm == 128 if not gated else bm > 16 and sm in TENSOR_MEMORY
    return Tile(bm, bn // 2 if narrow else bn, 32, warps, 4)


# Chosen by measurements on an H200 for H2048 I768 E128 K8 with random routing, S / E from 1 to 256,
# of more than 700 tiles: the fast ones that spill no register.  Those of int8 and int4 in 32 rows
# are neighbours of what was timed.  By format and whether there is a gate, for tile_rows() in turn.
HOPPER = {
    ("bf16", True): (
        Tile(16, 64, 128, 4, 3), Tile(32, 64, 64, 4, 3), Tile(64, 64, 64, 4, 3),
        Tile(128, 128, 64, 8, 4),
    ),
    ("bf16", False): (
        Tile(16, 128, 128, 4, 3), Tile(32, 128, 64, 4, 3), Tile(64, 128, 64, 4, 3),
        Tile(128, 256, 64, 8, 4),
    ),
    ("int8row", True): (
        Tile(16, 64, 128, 4, 3), Tile(32, 64, 128, 4, 3), Tile(64, 64, 64, 4, 3),
        Tile(128, 64, 64, 4, 3, left=True),
    ),
    ("int8row", False): (
        Tile(16, 128, 128, 4, 3), Tile(32, 128, 64, 4, 3), Tile(64, 128, 64, 4, 3),
        Tile(128, 128, 64, 4, 3, left=True),
    ),
    ("int8", True): (
        Tile(16, 64, 32, 4, 4), Tile(32, 64, 32, 4, 4), Tile(64, 64, 32, 4, 4, left=True),
    ),
    ("int8", False): (
        Tile(16, 128, 32, 4, 4), Tile(32, 128, 32, 4, 4), Tile(64, 128, 32, 4, 4),
        Tile(128, 64, 32, 4, 4, left=True),
    ),
    ("int4", True): (
        Tile(16, 64, 32, 4, 4), Tile(32, 64, 32, 4, 4), Tile(64, 64, 32, 4, 4, left=True),
    ),
    ("int4", False): (
        Tile(16, 128, 32, 4, 4), Tile(32, 128, 32, 4, 4), Tile(64, 128, 32, 4, 4),
        Tile(128, 64, 32, 4, 4, left=True),
    ),
    ("int8wide", True): (
        Tile(16, 64, 128, 4, 3), Tile(32, 64, 128, 4, 3), Tile(64, 64, 128, 4, 3, left=True),
    ),
    ("int8wide", False): (
        Tile(16, 128, 128, 4, 3), Tile(32, 128, 128, 4, 3), Tile(64, 128, 128, 4, 3),
        Tile(128, 64, 128, 4, 3, left=True),
    ),
    ("int4wide", True): (
        Tile(16, 64, 128, 4, 4), Tile(32, 64, 128, 4, 3, left=True),
        Tile(64, 64, 128, 4, 3, left=True),
    ),
    ("int4wide", False): (
        Tile(16, 128, 128, 4, 3), Tile(32, 128, 128, 4, 3), Tile(64, 128, 128, 4, 3),
        Tile(128, 64, 128, 4, 3, left=True),
    ),
}  # fmt: skip

# Features of a gemv's program, measured as above for T from 1 to 16.
GEMV_ON_HOPPER = {
    ("bf16", True): 16, ("bf16", False): 8, ("int8row", True): 16, ("int8row", False): 16,
    ("int8", True): 8, ("int8", False): 16, ("int4", True): 16, ("int4", False): 16,
}  # fmt: skip


GEMM_TYPES = {
    "columns": "i32", "row_elements": "i32", "features": "i32", "scale_blocks": "i32",
    "block_size": "i32",
}  # fmt: skip


# With 16 features to a group results are written in vectors too; scalar stores of 128 rows would
# keep so many addresses that registers spill.
VECTOR = ("x", "weights", "bias", "y", "columns", "row_elements", "features")


def pointer_types(stored: str, rows: str) -> dict[str, str]:
    return {"x": f"*{rows}", "weights": STORED[stored][1], "scales": "*bf16", "bias": "*fp32"}


GATED_ENDS = {
    "divisor": "i32",
    "activation": "i32",
    "alpha": "fp32",
    "limit": "fp32",
    "has_bias": "i32",
}
PLAIN_ENDS = {"gather": "i32", "scatter": "i32", "has_bias": "i32", "has_weights": "i32"}


def gemm(sm: str, stored: str, rows: str, gated: bool, bm: int, vector: bool) -> Kernel:
    """`vector`: rows of x and of the matrix begin at multiples of 16 bytes."""
    if rows == "fp32":
        # Multiplied and added in float32, without tensor cores: as exact as the type.
        tile = Tile(bm, 32, 16, 4, 2)
    elif not vector:
        tile = Tile(bm, 32 if gated else 64, 32, 4, 2)
    else:
        tile = tile_of(sm, stored, gated, bm)
    kind = "gated" if gated else "plain"
    types = pointer_types(stored, rows)
    if gated:
        types |= {"order": "*i32", "tile_map": "*i32", "y": f"*{rows}"}
    else:
        types |= {"topk_weights": "*fp32", "order": "*i32", "tile_map": "*i32", "y": "*fp32"}
    types |= GEMM_TYPES | {"tiles_m": "i32"} | (GATED_ENDS if gated else PLAIN_ENDS)
    return Kernel(
        name=f"gemm_{kind}_{stored}_{rows}_m{bm}" + ("" if vector else "_any"),
        source="gemm_gated" if gated else "gemm_plain",
        function=f"gemm_{kind}",
        types=types,
        constants={
            "STORED": STORED[stored][0], "BM": tile.bm, "BN": tile.bn, "BK": tile.bk,
            "GROUP_M": 8, "LEFT": int(tile.left), "PRECISION": "ieee",
        },
        warps=tile.warps,
        stages=tile.stages,
        aligned=VECTOR if vector else (),
        row={
            "stored": stored, "rows": rows, "gated": gated, "bm": tile.bm, "bn": tile.bn,
            "vector": vector,
        },
    )  # fmt: skip


def gemv(sm: str, stored: str, rows: str, gated: bool, vector: bool) -> Kernel:
    kind = "gated" if gated else "plain"
    types = pointer_types(stored, rows)
    if gated:
        types |= {"topk_ids": "*i32", "y": f"*{rows}"}
    else:
        types |= {"topk_weights": "*fp32", "topk_ids": "*i32", "y": "*fp32"}
    ends = GATED_ENDS if gated else {"divisor": "i32", "has_bias": "i32", "has_weights": "i32"}
    types |= GEMM_TYPES | {"num_experts": "i32"} | ends
    # 8 rows of 512 columns on 4 warps: 32 products a lane, in four or eight loads of 16 bytes.
    # Scalar loads keep an address each, and half as many of them do not spill.
    bn, bk = 8, 512 if vector else 256
    if sm == "90a" and vector:
        bn = GEMV_ON_HOPPER[stored, gated]
    elif stored == "int8" and gated and sm in ("110a", "120a"):
        bn = 4  # with 8 a register spills there
    return Kernel(
        name=f"gemv_{kind}_{stored}_{rows}" + ("" if vector else "_any"),
        source="gemv",
        function=f"gemv_{kind}",
        types=types,
        constants={"STORED": STORED[stored][0], "BN": bn, "BK": bk},
        aligned=VECTOR if vector else (),
        row={"stored": stored, "rows": rows, "gated": gated, "bm": 0, "bn": bn, "vector": vector},
    )


ROUTER_TYPES = {
    "logits": "*fp32", "correction_bias": "*fp32", "expert_scale": "*fp32", "topk_weights": "*fp32",
    "topk_ids": "*i32", "num_experts": "i32", "top_k": "i32", "score_kind": "i32",
    "normalize": "i32",
    "normalize_eps": "fp32", "normalize_min": "fp32", "num_groups": "i32", "topk_groups": "i32",
    "top2": "i32", "routed_scaling": "fp32", "has_bias": "i32", "has_scale": "i32",
}  # fmt: skip
ROUTER_SIZES = {32: 1, 128: 1, 512: 2, 2048: 8}  # experts: warps


def routers() -> list[Kernel]:
    return [
        Kernel(f"router_e{size}", "router", "router", ROUTER_TYPES, {"BLOCK_E": size}, warps)
        for size, warps in ROUTER_SIZES.items()
    ]


def sorters() -> list[Kernel]:
    sizes = {"assignments": "i32", "num_experts": "i32"}
    ids = {"topk_ids": "*i32", "counts": "*i32"}
    map_types = {"expert_offsets": "*i32", "tiles": "*i32", "rows": "i32", "num_experts": "i32"}
    map_types |= {"num_tiles": "i32", "block_m": "i32"}
    scatter = ids | {"order": "*i32", "expert_offsets": "*i32"} | sizes
    fill = {"x": "*i32", "count": "i32", "value": "i32"}
    invert = {"order": "*i32", "index": "*i32", "count": "i32"}
    return [
        Kernel("dispatch_count", "dispatch", "dispatch_count", ids | sizes, {"BLOCK_S": 1024}),
        Kernel("dispatch_scatter", "dispatch", "dispatch_scatter", scatter, {"BLOCK_S": 1024}),
        Kernel("tile_map", "tile_map", "tile_map", map_types, {"BLOCK": 256}),
        Kernel("fill", "inverse", "fill", fill, {"BLOCK": 1024}),
        Kernel("invert", "inverse", "invert", invert, {"BLOCK": 1024}),
    ]


def movers() -> list[Kernel]:
    """Rows from one type to another: before the matrices, between them and after them."""
    both = [(a, b) for b in ("bf16", "fp32") for a in ("fp32", "fp16", "bf16")]
    numbers = {"columns": "i32", "divisor": "i32", "has_weights": "i32", "apart": "i32"}
    found = [
        Kernel(
            f"rows_{a}_{b}", "rows", "rows",
            {"x": f"*{a}", "weights": "*fp32", "y": f"*{b}"} | numbers, {"BLOCK": 1024},
        )
        for a, b in both
    ]  # fmt: skip
    activated = dict.fromkeys(("columns", "num_experts", "activation", "by_id", "apart"), "i32")
    found += [
        Kernel(
            f"activate_rows_{b}", "activate_rows", "activate_rows",
            {"hidden": "*fp32", "ids": "*i32", "offsets": "*i32", "y": f"*{b}"} | activated,
            {"BLOCK": 1024},
        )
        for b in ("bf16", "fp32")
    ]  # fmt: skip
    sums = {"index": "*i32", "weights": "*fp32", "ids": "*i32", "offsets": "*i32"}
    names = ("top_k", "columns", "num_experts", "num_rows")
    ends = dict.fromkeys((*names, "has_index", "has_weights", "has_ids", "has_offsets"), "i32")
    pairs = [("fp32", b) for b in ("fp32", "fp16", "bf16")] + [("fp16", "fp16"), ("bf16", "bf16")]
    found += [
        Kernel(
            f"combine_{a}_{b}", "combine", "combine",
            {"rows": f"*{a}"} | sums | {"y": f"*{b}"} | ends, {"BLOCK": 512},
        )
        for a, b in pairs
    ]  # fmt: skip
    return found


def matrices(sm: str) -> list[Kernel]:
    found = []
    for stored in ("bf16", "int8row", "int8", "int4"):
        for gated in (True, False):
            found += [gemm(sm, stored, "bf16", gated, bm, True) for bm in tile_rows(stored, gated)]
            found += [gemm(sm, stored, "bf16", gated, 32, False)]
            found += [gemv(sm, stored, "bf16", gated, vector) for vector in (True, False)]
    for stored in IN_WIDE_BLOCKS:  # whatever else there is for blocks takes these too
        for gated in (True, False):
            found += [gemm(sm, stored, "bf16", gated, bm, True) for bm in tile_rows(stored, gated)]
    for stored in ("f32", "f16", "bf16"):
        for gated in (True, False):
            found += [
                gemm(sm, stored, "fp32", gated, 32, False),
                gemv(sm, stored, "fp32", gated, False),
            ]
    return found


def kernels(sm: str) -> list[Kernel]:
    return routers() + sorters() + movers() + matrices(sm)
