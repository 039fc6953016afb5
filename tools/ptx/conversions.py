"""cvt, between all types that the executor has."""

from __future__ import annotations

from .forms import Register
from .writer import FLOATS, INTEGERS, Writer

ROUNDINGS = {"rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"}
INTEGRAL = {"rni", "rzi", "rmi", "rpi"}
PAIRS = {"bf16x2": "BF16", "f16x2": "F16"}


def convert(w: Writer) -> None:
    types, flags = w.split(ROUNDINGS | {"ftz", "sat", "relu", "satfinite"})
    if len(types) != 2:
        w.unknown()
    to, of = types
    rounding = next(iter(flags & ROUNDINGS), "none")
    w.lines.append("Lanes<double> wide, wide_low; Lanes<s64> whole;")
    if to in INTEGERS and of in INTEGERS:
        _integer_to_integer(w, to, of, flags)
    elif to in INTEGERS and of in FLOATS:
        _float_to_integer(w, to, of, flags, rounding)
    elif to in FLOATS and of in INTEGERS:
        _integer_to_float(w, to, of, flags, rounding)
    elif to == "tf32" and of == "f32":
        _to_tf32(w, flags, rounding)
    elif to in PAIRS and of == "f32":
        _to_pair(w, to, flags, rounding)
    elif "e4m3x2" in types:
        _with_e4m3(w, to, of, flags)
    elif to in FLOATS and of in FLOATS:
        _float_to_float(w, to, of, flags, rounding)
    else:
        w.unknown()


def _register(w: Writer, index: int) -> tuple[str, str]:
    """An operand that may be wider than its type, and the C++ type of its lanes."""
    operand = w.operands(2)[index]
    if isinstance(operand, Register) and operand.kind != "pred":
        return w.array(operand), f"u{operand.kind[1:]}"
    return w.source(operand, "b64"), "u64"


def _widen_integer(w: Writer, of: str) -> None:
    lanes, register = _register(w, 1)
    w.call(f"widen<{of}, {register}>", "whole", lanes)


def _widen_float(w: Writer, of: str, flags: set[str], index: int = 1, into: str = "wide") -> None:
    name = "F32Z" if of == "f32" and "ftz" in flags else FLOATS[of]
    w.call(f"widen_float<{name}>", into, w.source(w.instruction.operands[index], of))


def _narrow_integer(w: Writer, to: str, of: str, saturate: bool) -> None:
    lanes, register = _register(w, 0)
    how = ["true" if flag else "false" for flag in (of.startswith("u"), saturate)]
    w.call(f"narrow<{to}, {register}>", w.mask(), lanes, "whole", *how)


def _narrow_float(w: Writer, to: str, flags: set[str], rounding: str) -> None:
    name = "F32Z" if to == "f32" and "ftz" in flags else FLOATS[to]
    clip = "sat" if "sat" in flags else "relu" if "relu" in flags else "none"
    target = w.target(w.operands(2)[0], to)
    how = [f"Round::{rounding}", f"Clip::{clip}"]
    w.call(f"narrow_float<{name}>", w.mask(), target, "wide", *how)


def _integer_to_integer(w: Writer, to: str, of: str, flags: set[str]) -> None:
    if flags - {"sat"}:
        w.unknown()
    _widen_integer(w, of)
    _narrow_integer(w, to, of, "sat" in flags)


def _float_to_integer(w: Writer, to: str, of: str, flags: set[str], rounding: str) -> None:
    if rounding not in INTEGRAL or flags - {"sat", "ftz", rounding}:
        w.unknown()
    _widen_float(w, of, flags)
    from_double = "true" if of == "f64" else "false"
    w.call(f"to_integer<{to}>", "whole", "wide", f"Round::{rounding}", from_double)
    _narrow_integer(w, to, to, saturate=False)


def _integer_to_float(w: Writer, to: str, of: str, flags: set[str], rounding: str) -> None:
    if rounding not in ("rn", "rz", "rm", "rp") or flags - {"sat", "relu", rounding}:
        w.unknown()
    if to == "f64" and rounding != "rn":
        w.unknown()
    _widen_integer(w, of)
    is_unsigned, odd = of.startswith("u"), to != "f64"
    w.call("to_double", "wide", "whole", *("true" if x else "false" for x in (is_unsigned, odd)))
    _narrow_float(w, to, flags, rounding)


def _to_tf32(w: Writer, flags: set[str], rounding: str) -> None:
    if flags - {rounding} or rounding not in ("rna", "rn", "rz"):
        w.unknown()
    _widen_float(w, "f32", flags)
    w.call("narrow_tf32", w.mask(), w.target(w.operands(2)[0], "b32"), "wide", f"Round::{rounding}")


def _to_pair(w: Writer, to: str, flags: set[str], rounding: str) -> None:
    if rounding not in ("rn", "rz") or flags - {"relu", "ftz", rounding}:
        w.unknown()
    target, _, _ = w.operands(3)
    how = f"Round::{rounding}", "Clip::relu" if "relu" in flags else "Clip::none"
    w.lines.append("Lanes<u16> high, low;")
    for name, index in (("high", 1), ("low", 2)):
        _widen_float(w, "f32", flags, index)
        w.call(f"narrow_float<{PAIRS[to]}>", "w.active", f"{name}.v", "wide", *how)
    w.call("merge_halves", w.mask(), w.target(target, to), "high.v", "low.v")


def _with_e4m3(w: Writer, to: str, of: str, flags: set[str]) -> None:
    if to == "f16x2" and flags == {"rn"}:
        target, value = w.operands(2)
        w.call("widen_e4m3x2", w.mask(), w.target(target, "b32"), w.source(value, "b16"))
        return
    if to != "e4m3x2" or of != "f32" or flags != {"rn", "satfinite"}:
        w.unknown()
    target, _, _ = w.operands(3)
    _widen_float(w, "f32", set(), 1)
    _widen_float(w, "f32", set(), 2, "wide_low")
    w.call("narrow_e4m3x2", w.mask(), w.target(target, "b16"), "wide", "wide_low")


def _float_to_float(w: Writer, to: str, of: str, flags: set[str], rounding: str) -> None:
    if flags - {"sat", "relu", "ftz", rounding} or "x2" in to + of:
        w.unknown()
    _widen_float(w, of, flags)
    if rounding in INTEGRAL:
        if to != of:
            w.unknown()
        w.call("to_integral", "wide", f"Round::{rounding}")
        rounding = "rn"
    _narrow_float(w, to, flags, rounding)


EMITTERS = {"cvt": convert}
