"""Integer, logic and float instructions, comparisons and moves."""

from __future__ import annotations

from .forms import Immediate, Operand, Pair, Register, Sink, Vector
from .writer import FLOATS, INTEGERS, UNTYPED, WIDTHS, Writer

ROUNDED = {"rn", "ftz", "sat", "relu"}
FLOAT_NAMES = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
FUNCTIONS = {
    "rcp": "rcp", "sqrt": "sqrt_", "rsqrt": "rsqrt", "ex2": "ex2", "lg2": "lg2", "tanh": "tanh_",
    "sin": "sin_", "cos": "cos_", "neg": "fneg", "abs": "fabs_",
}  # fmt: skip
LOGIC = {"and": "and_bits", "or": "or_bits", "xor": "xor_bits", "not": "not_bits"}
COMPARISONS = {
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
}  # fmt: skip
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def unsigned(type_: str) -> str:
    """The type of plain bits: ``b32`` is computed as ``u32``."""
    return type_.replace("b", "u") if type_ in UNTYPED else type_


def float_type(w: Writer, type_: str, flags: set[str]) -> str:
    if "ftz" not in flags:
        return FLOATS[type_]
    if type_ != "f32":
        w.refuse(f".ftz is not known of {type_}")
    return "F32Z"


def elementwise(w: Writer, function: str, type_: str, operands: tuple[Operand, ...]) -> None:
    """``d = function(a, ...)``, all of one type."""
    sources = [w.source(o, type_) for o in operands[1:]]
    w.call(function, w.mask(), w.target(operands[0], type_), *sources)


def float_call(w: Writer, function: str, type_: str, flags: set[str]) -> None:
    name = float_type(w, type_, flags)
    elementwise(w, f"{function}<{name}>", type_, w.instruction.operands)
    if flags & {"sat", "relu"}:
        how = "Clip::sat" if "sat" in flags else "Clip::relu"
        w.call(f"clip<{name}>", w.mask(), how, w.target(w.instruction.operands[0], type_))


FLAGS = {
    **{name: {"rn", "ftz", "sat"} for name in ("add", "sub", "mul")},
    **{name: {"ftz", "NaN", "relu"} for name in ("min", "max")},
    "div": {"rn", "full", "approx", "ftz"},
}
INTEGER_NAMES = {"min": "min_int", "max": "max_int", "div": "div_int", "abs": "abs_int"}


def arithmetic(w: Writer) -> None:
    """add, sub, min, max, div, rem, neg, abs of integers; the same and mul of floats."""
    root = w.instruction.words[0]
    types, found = w.split(FLAGS.get(root, {"ftz"}))
    if len(types) != 1:
        w.unknown()
    w.operands(2 if root in ("neg", "abs") else 3)
    if types[0] in FLOATS:
        name = FLOAT_NAMES.get(root) or FUNCTIONS.get(root)
        if root in ("min", "max"):
            name = f"f{root}_nan" if "NaN" in found else f"f{root}_"
        if name is None:
            w.unknown()
        float_call(w, name, types[0], found)
        return
    _integer_arithmetic(w, types[0], found)


def _integer_arithmetic(w: Writer, type_: str, flags: set[str]) -> None:
    root, operands = w.instruction.words[0], w.instruction.operands
    if type_ not in INTEGERS or root == "mul" or flags - ({"relu"} if type_ == "s32" else set()):
        w.unknown()
    elementwise(w, f"{INTEGER_NAMES.get(root, root)}<{type_}>", type_, operands)
    if flags:
        elementwise(w, "max_int<s32>", type_, (operands[0], operands[0], Immediate(0)))


def function(w: Writer) -> None:
    types, found = w.split({"approx", "ftz", "rn"})
    w.operands(2)
    float_call(w, FUNCTIONS[w.instruction.words[0]], types[0], found)


def multiply(w: Writer) -> None:
    """Products, and sums of them: .lo, .hi, .wide of integers, and mul of floats."""
    root, *words = w.instruction.words
    if words[0] not in ("lo", "hi", "wide"):
        arithmetic(w)
        return
    types, _ = w.split({words[0]})
    if len(types) != 1 or types[0] not in INTEGERS:
        w.unknown()
    operands, type_ = w.operands(3 if root == "mul" else 4), types[0]
    if words[0] != "wide":
        elementwise(w, f"{root}_{words[0]}<{type_}>", type_, operands)
        return
    wide = f"{type_[0]}{2 * int(type_[1:])}"
    sources = [w.source(o, type_) for o in operands[1:3]]
    sources += [w.source(o, wide) for o in operands[3:]]
    name = f"{root}_wide<{type_}, {wide}>"
    w.call(name, w.mask(), w.target(operands[0], wide), *sources)


def fma(w: Writer) -> None:
    types, found = w.split(ROUNDED)
    w.operands(4)
    if types[0] not in FLOATS or "rn" not in found:
        w.unknown()
    float_call(w, "fma_", types[0], found)


def logic(w: Writer) -> None:
    root, type_ = w.instruction.words
    operands = w.operands(2 if root == "not" else 3)
    if type_ == "pred":
        name = "not_pred" if root == "not" else f"{LOGIC[root]}<s32>"
        w.call(name, w.mask(), *(w.predicate(o) for o in operands))
        return
    if type_ not in UNTYPED:
        w.unknown()
    elementwise(w, f"{LOGIC[root]}<{unsigned(type_)}>", type_, operands)


def shift(w: Writer) -> None:
    root, type_ = w.instruction.words
    target, value, distance = w.operands(3)
    of = unsigned(type_)
    if of not in INTEGERS:
        w.unknown()
    arguments = [w.target(target, of), w.source(value, of), w.source(distance, "u32")]
    w.call(f"{root}<{of}>", w.mask(), *arguments)


def funnel_shift(w: Writer) -> None:
    _, direction, mode, type_ = w.instruction.words
    if type_ != "b32" or direction not in "lr" or mode not in ("wrap", "clamp"):
        w.unknown()
    how = ["true" if direction == "l" else "false", "true" if mode == "clamp" else "false"]
    target, *sources = w.operands(4)
    arguments = [w.target(target, "b32"), *(w.source(o, "b32") for o in sources)]
    w.call("shf", w.mask(), *arguments, *how)


def bit_field(w: Writer) -> None:
    """bfe, bfi, brev, popc, clz, bfind."""
    root, type_ = w.instruction.words[0], unsigned(w.instruction.words[-1])
    if len(w.instruction.words) != 2 or type_ not in INTEGERS:
        w.unknown()
    target, *sources = w.operands({"bfe": 4, "bfi": 5}.get(root, 2))
    result = "u32" if root in ("popc", "clz", "bfind") else type_
    wide = len(sources) if root not in ("bfe", "bfi") else len(sources) - 2
    arguments = [w.source(o, type_) for o in sources[:wide]]
    arguments += [w.source(o, "u32") for o in sources[wide:]]
    w.call(f"{root}<{type_}>", w.mask(), w.target(target, result), *arguments)


def lookup(w: Writer) -> None:
    if w.instruction.words[1:] != ["b32"]:
        w.unknown()
    target, a, b, c, table = w.operands(5)
    if not isinstance(table, Immediate):
        w.unknown()
    sources = [w.source(o, "b32") for o in (a, b, c)]
    w.call("lop3", w.mask(), w.target(target, "b32"), *sources, str(table.value & 0xFF))


def permute(w: Writer) -> None:
    if w.instruction.words[1:] != ["b32"]:
        w.unknown()
    elementwise(w, "prmt", "b32", w.operands(4))


def dot_bytes(w: Writer) -> None:
    _, a, b = w.instruction.words
    of = {"s32": "true", "u32": "false"}
    if a not in of or b not in of:
        w.unknown()
    elementwise(w, f"dp4a<{of[a]}, {of[b]}>", "b32", w.operands(4))


def compare(w: Writer) -> None:
    """setp, with an optional predicate to combine with, and an optional second result."""
    words = w.instruction.words[1:]
    how = UNSIGNED_NAMES.get(words[0], words[0])
    combine = words[1] if words[1] in ("and", "or", "xor") else None
    ftz, type_ = "ftz" in words, unsigned(words[-1])
    if how not in COMPARISONS or len(words) != 2 + (combine is not None) + ftz:
        w.unknown()
    operands = w.operands(4 if combine else 3)
    target = operands[0]
    if isinstance(target, Pair):
        w.refuse("a second result of setp is not known")
    sources = [w.source(o, type_) for o in operands[1:3]]
    if type_ in FLOATS:
        name = f"setp_float<{float_type(w, type_, {'ftz'} if ftz else set())}>"
    elif type_ in INTEGERS and how in ("eq", "ne", "lt", "le", "gt", "ge"):
        name = f"setp<{type_}>"
    else:
        w.unknown()
    into = w.predicate(target)
    if combine is None:
        w.call(name, w.mask(), f"Compare::{how}", into, *sources)
        return
    other, negated = w.maybe_negated(operands[3])
    w.lines.append("Predicate compared, other;")
    w.call(name, "w.active", f"Compare::{how}", "compared.v", *sources)
    w.call("not_pred" if negated == "true" else "mov<s32>", "w.active", "other.v", other)
    w.call(f"{LOGIC[combine]}<s32>", w.mask(), into, "compared.v", "other.v")


def select(w: Writer) -> None:
    type_ = w.instruction.words[1]
    target, a, b, predicate = w.operands(4)
    if type_ not in WIDTHS:
        w.unknown()
    of = f"b{WIDTHS[type_]}"
    arguments = [w.target(target, of), w.source(a, of), w.source(b, of), w.predicate(predicate)]
    w.call(f"selp<{unsigned(of)}>", w.mask(), *arguments)


def move(w: Writer) -> None:
    type_ = w.instruction.words[1]
    target, value = w.operands(2)
    if type_ == "pred":
        lanes = w.constant(-1 if value.value else 0, 32) if isinstance(value, Immediate) else ""
        of = f"reinterpret_cast<const s32*>({lanes})" if lanes else w.predicate(value)
        w.call("mov<s32>", w.mask(), w.predicate(target), of)
        return
    if len(w.instruction.words) != 2 or type_ not in WIDTHS:
        w.unknown()
    bits = WIDTHS[type_]
    of = f"b{bits}"
    if isinstance(value, Vector):
        part = f"b{bits // len(value.items)}"
        parts = w.pointers("parts", list(value.items), part, target=False)
        w.call(f"pack<{unsigned(part)}, {unsigned(of)}>", w.mask(), w.target(target, of), parts)
    elif isinstance(target, Vector):
        part = f"b{bits // len(target.items)}"
        parts = w.pointers("parts", list(target.items), part, target=True)
        w.call(f"unpack<{unsigned(part)}, {unsigned(of)}>", w.mask(), parts, w.source(value, of))
    elif isinstance(target, Register) and not isinstance(value, Sink):
        w.call(f"mov<{unsigned(of)}>", w.mask(), w.target(target, of), w.source(value, of))
    else:
        w.unknown()


def copysign(w: Writer) -> None:
    if w.instruction.words[1:] != ["f32"]:
        w.unknown()
    elementwise(w, "copysign_", "f32", w.operands(3))


EMITTERS = {
    **dict.fromkeys(("add", "sub", "min", "max", "div", "rem", "neg", "abs"), arithmetic),
    **dict.fromkeys(("rcp", "sqrt", "rsqrt", "ex2", "lg2", "tanh", "sin", "cos"), function),
    **dict.fromkeys(("mul", "mad"), multiply),
    **dict.fromkeys(LOGIC, logic),
    **dict.fromkeys(("shl", "shr"), shift),
    **dict.fromkeys(("bfe", "bfi", "brev", "popc", "clz", "bfind"), bit_field),
    "fma": fma,
    "shf": funnel_shift,
    "lop3": lookup,
    "prmt": permute,
    "dp4a": dot_bytes,
    "setp": compare,
    "selp": select,
    "mov": move,
    "copysign": copysign,
}
