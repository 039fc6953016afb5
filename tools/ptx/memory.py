"""Loads, stores, atomics, and copies that run on by themselves."""

from __future__ import annotations

from .forms import Address, Immediate, Instruction, Operand, Register, Sink, Symbol
from .writer import UNTYPED, WIDTHS, Writer

# Hints to caches, and orders that say no more than a plain access where blocks run in turns.
HINTS = {
    "weak", "relaxed", "volatile", "acquire", "release", "acq_rel", "gpu", "cta", "sys", "nc", "ca",
    "cg", "cs", "lu", "cv", "wb", "wt", "L1::evict_normal", "L1::evict_unchanged",
    "L1::evict_first", "L1::evict_last", "L1::no_allocate", "L2::64B", "L2::128B", "L2::256B",
    "L2::cache_hint",
}  # fmt: skip
SPACES = {"global": "global", "shared": "shared", "shared::cta": "shared", "param": "param"}
VECTORS = {"v2": 2, "v4": 4}
ATOMICS = {
    "add": "add", "min": "min", "max": "max", "and": "and_", "or": "or_", "xor": "xor_",
    "exch": "exch", "cas": "cas", "inc": "inc", "dec": "dec",
}  # fmt: skip


def _parts(w: Writer) -> tuple[str, int, str, set[str]]:
    """Space, elements, type and hints of a load or store."""
    *words, type_ = w.instruction.words[1:]
    space, count, hints = None, 1, set()
    for word in words:
        if word in SPACES and space is None:
            space = SPACES[word]
        elif word in VECTORS:
            count = VECTORS[word]
        elif word in HINTS:
            hints.add(word)
        else:
            w.refuse(f".{word} is not known of {w.instruction.words[0]}")
    if space is None:
        w.refuse("generic addresses are not known")
    if type_ not in WIDTHS:
        w.unknown()
    return space, count, type_, hints


def _elements(w: Writer, operands: list[Operand], type_: str) -> str:
    items = []
    for operand in operands:
        if isinstance(operand, Sink):
            items.append("{nullptr, 0}")
        elif isinstance(operand, Register) and operand.kind != "pred":
            if int(operand.kind[1:]) < WIDTHS[type_]:
                w.refuse("a register is narrower than what it is to hold")
            items.append(f"{{{w.array(operand)}, {int(operand.kind[1:]) // 8}}}")
        elif isinstance(operand, Immediate):
            lanes = w.constant(operand.value, max(16, WIDTHS[type_]))
            items.append(f"{{const_cast<void*>(static_cast<const void*>({lanes})), "
                         f"{max(2, WIDTHS[type_] // 8)}}}")  # fmt: skip
        else:
            w.refuse("needs registers")
    w.lines.append(f"const Element elements[] = {{{', '.join(items)}}};")
    return "elements"


def _access(type_: str, count: int) -> str:
    sign = "true" if type_.startswith("s") else "false"
    return f"Access{{{WIDTHS[type_] // 8}, {count}, {sign}}}"


def _memory(w: Writer, place: Operand, values: Operand) -> None:
    root = {"ld": "load", "st": "store"}[w.instruction.words[0]]
    space, count, type_, _ = _parts(w)
    items = w.vector(values)
    if len(items) != count:
        w.refuse(f"{len(items)} registers for {count} elements")
    elements, access = _elements(w, items, type_), _access(type_, count)
    base, offset = w.address(place, 64 if space == "global" else 32)
    w.call(f"{root}_{space}", "w", w.mask(), w.site(), base, offset, access, elements)


def load(w: Writer) -> None:
    operands = w.operands(2, 3)
    if "param" in w.instruction.words:
        _load_parameter(w, operands[0], operands[1])
        return
    _memory(w, operands[1], operands[0])


def _load_parameter(w: Writer, values: Operand, place: Operand) -> None:
    _, count, type_, _ = _parts(w)
    if not isinstance(place, Address) or not isinstance(place.base, Symbol):
        w.refuse("a parameter is known by its name")
    parameter = w.parameters.get(place.base.name)
    size = count * WIDTHS[type_] // 8
    if parameter is None or not 0 <= place.offset <= parameter.size - size:
        w.refuse("reads outside of the kernel's parameters")
    elements = _elements(w, w.vector(values), type_)
    where = str(parameter.offset + place.offset)
    w.call("load_parameter", "w", w.mask(), where, _access(type_, count), elements)


def store(w: Writer) -> None:
    operands = w.operands(2, 3)
    if "param" in w.instruction.words:
        w.unknown()
    _memory(w, operands[0], operands[1])


def atomic(w: Writer) -> None:
    root, *words, type_ = w.instruction.words
    hints = HINTS | {"global", "noftz"}
    how = [word for word in words if word not in hints]
    if len(how) != 1 or how[0] not in ATOMICS or "global" not in words:
        w.unknown()
    operands = list(w.operands(*((2, 3) if root == "red" else (3, 4, 5))))
    target = None if root == "red" else operands.pop(0)
    base, offset = w.address(operands[0], 64)
    acquire = "true" if {"acquire", "acq_rel"} & set(words) else "false"
    if type_ in ("f32", "f16", "bf16"):
        if how[0] != "add":
            w.unknown()
        into = "nullptr" if target is None or isinstance(target, Sink) else w.target(target, type_)
        arguments = [acquire, into, base, offset, w.source(operands[1], type_)]
        name = {"f32": "F32", "f16": "F16", "bf16": "BF16"}[type_]
        w.call(f"atomic_add_float<{name}>", "w", w.mask(), w.site(), *arguments)
        return
    of = type_.replace("b", "u") if type_ in UNTYPED else type_
    if of not in ("u32", "s32", "u64", "s64"):
        w.unknown()
    into = "nullptr" if target is None or isinstance(target, Sink) else w.target(target, of)
    value = w.source(operands[1], of)
    other = w.source(operands[2], of) if how[0] == "cas" else "nullptr"
    arguments = [f"Atomic::{ATOMICS[how[0]]}", acquire, into, base, offset, value, other]
    w.call(f"atomic<{of}>", "w", w.mask(), w.site(), *arguments)


def fence(w: Writer) -> None:
    if "proxy" in w.instruction.words:
        # Between ordinary accesses and those of wgmma: the executor has them in order.
        w.lines.append(";")
        return
    w.call("fence", "w")


def copy_async(w: Writer) -> None:
    """cp.async and what goes with it."""
    words = w.instruction.words
    if words[2] in ("commit_group", "wait_group", "wait_all"):
        _copy_groups(w, words[2])
        return
    hints = {"ca", "cg", "shared", "shared::cta", "global", "L2::64B", "L2::128B", "L2::256B",
             "L2::cache_hint"}  # fmt: skip
    if set(words[2:]) - hints or "global" not in words:
        w.unknown()
    operands = w.operands(3, 4)
    to, to_offset = w.address(operands[0], 32)
    source, source_offset = w.address(operands[1], 64)
    size = operands[2]
    sizes = (16,) if "cg" in words else (4, 8, 16)
    if not isinstance(size, Immediate) or size.value not in sizes:
        w.refuse("copies 4, 8 or 16 bytes")
    used = w.source(operands[3], "b32") if len(operands) == 4 else "nullptr"
    arguments = [to, to_offset, source, source_offset, str(size.value), used]
    w.call("copy_async", "w", w.mask(), w.site(), *arguments)


def _copy_groups(w: Writer, word: str) -> None:
    if word == "commit_group":
        w.call("commit_copies", "w", w.mask(), w.site())
        return
    if word == "wait_all":
        w.call("wait_for_all_copies", "w", w.mask(), w.site())
        return
    pending = w.operands(1)[0]
    if not isinstance(pending, Immediate):
        w.unknown()
    w.call("wait_for_copies", "w", w.mask(), w.site(), str(pending.value))


def address_space(w: Writer) -> None:
    """cvta: global addresses are what they are in a generic one."""
    words = w.instruction.words
    if words[-1] != "u64" or words[1:-1] not in (["to", "global"], ["global"]):
        w.unknown()
    target, value = w.operands(2)
    w.call("mov<u64>", w.mask(), w.target(target, "b64"), w.source(value, "b64"))


def is_copy(instruction: Instruction) -> bool:
    return instruction.words[:2] == ["cp", "async"] and len(instruction.words) > 2


EMITTERS = {
    "ld": load,
    "st": store,
    "atom": atomic,
    "red": atomic,
    "membar": fence,
    "fence": fence,
    "cvta": address_space,
    "cp": copy_async,
}
