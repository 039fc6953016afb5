"""What the lanes of a warp do together: shuffles, votes, matrices, barriers."""

from __future__ import annotations

from .forms import Immediate, Operand, Pair, Sink, Vector
from .writer import Writer

MATRICES = {"x1": 1, "x2": 2, "x4": 4}
# C++ name of a fragment's type and K of the shape, and the registers of a and b.
SHAPES = {
    ("bf16", "m16n8k16"): ("BF16, 16", 4, 2),
    ("bf16", "m16n8k8"): ("BF16, 8", 2, 1),
    ("f16", "m16n8k16"): ("F16, 16", 4, 2),
    ("f16", "m16n8k8"): ("F16, 8", 2, 1),
    ("tf32", "m16n8k8"): ("TF32, 8", 4, 2),
    ("tf32", "m16n8k4"): ("TF32, 4", 2, 1),
    ("s8", "m16n8k32"): ("S8, 32", 4, 2),
    ("s8", "m16n8k16"): ("S8, 16", 2, 1),
    ("u8", "m16n8k32"): ("U8, 32", 4, 2),
    ("u8", "m16n8k16"): ("U8, 16", 2, 1),
}

ROWS_IN_REGISTERS = 4
"""Registers that hold a warp's 16 rows of 16 columns of the left side of a wgmma."""


def _flag(value: bool) -> str:
    return "true" if value else "false"


def shuffle(w: Writer) -> None:
    _, sync, how, type_ = w.instruction.words
    if sync != "sync" or how not in ("up", "down", "bfly", "idx") or type_ != "b32":
        w.unknown()
    target, value, distance, clamp, members = w.operands(5)
    result: Operand = target
    in_range = "nullptr"
    if isinstance(target, Pair):
        result, in_range = target.first, w.predicate(target.second)
    into = "nullptr" if isinstance(result, Sink) else w.target(result, "b32")
    sources = [w.source(o, "b32") for o in (value, distance, clamp)]
    how = f"Shuffle::{how}"
    w.call("shfl", "w", w.mask(), w.site(), how, into, in_range, *sources, w.members(members))


def vote(w: Writer) -> None:
    _, sync, how, type_ = w.instruction.words
    target, predicate, members = w.operands(3)
    lanes, negated = w.maybe_negated(predicate)
    if sync == "sync" and how == "ballot" and type_ == "b32":
        into = w.target(target, "b32")
        w.call("ballot", "w", w.mask(), w.site(), into, lanes, negated, w.members(members))
    elif sync == "sync" and how in ("all", "any", "uni") and type_ == "pred":
        arguments = [f"Vote::{how}", w.predicate(target), lanes, negated, w.members(members)]
        w.call("vote", "w", w.mask(), w.site(), *arguments)
    else:
        w.unknown()


def reduce(w: Writer) -> None:
    _, sync, how, type_ = w.instruction.words
    names = {"add": "add", "min": "min", "max": "max", "and": "and_", "or": "or_", "xor": "xor_"}
    of = type_.replace("b", "u")
    if sync != "sync" or how not in names or of not in ("u32", "s32"):
        w.unknown()
    target, value, members = w.operands(3)
    arguments = [w.target(target, of), w.source(value, of), w.members(members)]
    w.call(f"redux<{of}>", "w", w.mask(), w.site(), f"Atomic::{names[how]}", *arguments)


def active_mask(w: Writer) -> None:
    w.call("active_mask", "w", w.mask(), w.target(w.operands(1)[0], "b32"))


def load_matrices(w: Writer) -> None:
    _matrices(w, "load_matrices", target=True)


def store_matrices(w: Writer) -> None:
    _matrices(w, "store_matrices", target=False)


def _matrices(w: Writer, name: str, *, target: bool) -> None:
    words = [word for word in w.instruction.words[1:] if word != "trans"]
    if words[:3] != ["sync", "aligned", "m8n8"] or words[3] not in MATRICES:
        w.unknown()
    if words[4] not in ("shared", "shared::cta") or words[5:] != ["b16"]:
        w.unknown()
    registers, place = w.operands(2) if target else reversed(w.operands(2))
    count, items = MATRICES[words[3]], w.vector(registers)
    if len(items) != count:
        w.refuse(f"{len(items)} registers for {count} matrices")
    array = w.pointers("matrices", items, "b32", target=target)
    base, offset = w.address(place, 32)
    transposed = _flag("trans" in w.instruction.words)
    w.call(name, "w", w.mask(), w.site(), str(count), transposed, array, base, offset)


def multiply(w: Writer) -> None:
    words = w.instruction.words
    head = ["mma", "sync", "aligned", words[3], "row", "col"]
    if words[:6] != head or len(words) != 10:
        w.unknown()
    result, a, b, added = words[6:]
    sums = ("s32", "s32") if a in ("s8", "u8") else ("f32", "f32")
    if (a, words[3]) not in SHAPES or a != b or (result, added) != sums:
        w.unknown()
    of, left, right = SHAPES[a, words[3]]
    arrays = []
    for name, operand, count in zip("dabc", w.operands(4), (4, left, right, 4), strict=True):
        items = w.vector(operand)
        if len(items) != count:
            w.refuse(f"{len(items)} registers where the shape has {count}")
        arrays.append(w.pointers(f"of_{name}", items, "b32", target=name == "d"))
    w.call(f"mma<{of}>", "w", w.mask(), w.site(), *arrays)


def group_multiply(w: Writer) -> None:
    """What begins with wgmma."""
    words = w.instruction.words
    if words[1:] == ["fence", "sync", "aligned"]:
        w.call("sync_warp", "w", w.mask(), w.site(), w.constant(-1, 32))
    elif words[1:] == ["commit_group", "sync", "aligned"]:
        w.call("commit_products", "w", w.mask(), w.site())
    elif words[1:] == ["wait_group", "sync", "aligned"]:
        pending = w.operands(1)[0]
        if not isinstance(pending, Immediate):
            w.unknown()
        w.call("wait_for_products", "w", w.mask(), w.site(), str(pending.value))
    elif words[1:4] == ["mma_async", "sync", "aligned"] and len(words) == 8:
        _group_product(w, words[4:])
    else:
        w.unknown()


def _group_product(w: Writer, words: list[str]) -> None:
    shape, *types = words
    columns = int(shape.removeprefix("m64n").removesuffix("k16"))
    known = types in (["f32", "bf16", "bf16"], ["f32", "f16", "f16"])
    if not known or columns not in range(8, 257, 8):
        w.unknown()
    d, a, b, adds, *signs = w.operands(7, 8)
    in_registers = isinstance(a, Vector)
    flags = [o.value for o in signs if isinstance(o, Immediate)]
    items = w.vector(d)
    # Rows in registers lie in one way only, and have no flag for it.
    count = 3 if in_registers else 4
    if flags[:2] != [1, 1] or len(flags) != count or len(items) != columns // 2:
        w.unknown()
    array = w.pointers("of_d", items, "b32", target=True)
    if isinstance(adds, Immediate):
        added = f"reinterpret_cast<const s32*>({w.constant(adds.value, 32)})"
    else:
        added = w.predicate(adds)
    if in_registers:
        if len(w.vector(a)) != ROWS_IN_REGISTERS:
            w.unknown()
        left = w.pointers("of_a", w.vector(a), "b32", target=False)
    else:
        left = w.source(a, "b64")
    how = [left, w.source(b, "b64"), added, *map(_flag, map(bool, flags[2:]))]
    arguments = [str(columns), _flag(types[1] == "bf16"), array, *how]
    w.call("multiply_later", "w", w.mask(), w.site(), *arguments)


def warp_barrier(w: Writer) -> None:
    w.call("sync_warp", "w", w.mask(), w.site(), w.members(w.operands(1)[0]))


def barrier(w: Writer, resume: int) -> None:
    """Ends a basic block: the warp goes on in block ``resume``."""
    operands = w.operands(0, 1, 2)
    numbers = [o.value for o in operands if isinstance(o, Immediate)]
    if len(numbers) != len(operands) or w.instruction.guard is not None:
        w.unknown()
    number, threads = ([*numbers, 0, 0])[0], ([*numbers, 0, 0] if len(numbers) > 1 else [0, 0])[1]
    arrive = _flag("arrive" in w.instruction.words)
    w.lines.append(f"w.block = {resume};")
    arguments = ", ".join(["w", w.site(), str(number), str(threads), arrive])
    w.lines.append(f"return wait_at_barrier({arguments});")


EMITTERS = {
    "shfl": shuffle,
    "vote": vote,
    "redux": reduce,
    "activemask": active_mask,
    "ldmatrix": load_matrices,
    "stmatrix": store_matrices,
    "mma": multiply,
    "wgmma": group_multiply,
}
