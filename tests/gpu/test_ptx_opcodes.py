"""Single instructions do what the PTX ISA says, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from . import ptx_one
from .ptx_one import Instruction

Array = npt.NDArray[Any]
Oracle = Callable[..., Any]

RNG = np.random.default_rng(1)
U32, S32, F32 = np.uint32, np.int32, np.float32
BF16 = ml_dtypes.bfloat16


def bits(count: int, dtype: npt.DTypeLike = U32) -> list[Array]:
    """Operands of random bits, among them all zeros and all ones."""
    arrays = []
    for seed in range(count):
        values = RNG.integers(0, 2**64, size=32, dtype=np.uint64).astype(dtype)
        values[seed], values[seed + 8] = 0, np.uint64(2**64 - 1).astype(dtype)
        arrays.append(values)
    return arrays


def small(count: int) -> Array:
    return RNG.integers(0, count, size=32).astype(U32)


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3.4e38, 1.0, -1.5, 65504, 65520, 6e-8]


def floats(seed: int = 0) -> Array:
    """Numbers of all sizes, and the special ones."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=32) * np.exp2(rng.integers(-20, 20, size=32))
    values[: len(SPECIAL)] = SPECIAL
    return np.roll(values, seed).astype(F32)


def halfway() -> Array:
    """float32 numbers just at, below and above the middle of two bfloat16 numbers."""
    middle = RNG.integers(0x3F80, 0x4100, size=32, dtype=np.uint32) << 16 | 0x8000
    return (middle + np.tile([0, 1, 0xFFFFFFFF, 0x10000], 8).astype(U32)).astype(U32).view(F32)


def each(function: Oracle) -> Oracle:
    """A function of Python integers for every lane."""
    return lambda *operands: [function(*map(int, lane)) for lane in zip(*operands, strict=True)]


def signed(value: int, width: int = 32) -> int:
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


def prmt(a: int, b: int, selector: int) -> int:
    whole, result = b << 32 | a, 0
    for at in range(4):
        choice = selector >> 4 * at & 15
        byte = whole >> 8 * (choice & 7) & 0xFF
        if choice & 8:
            byte = 0xFF * (byte >> 7)
        result |= byte << 8 * at
    return result


def bfe(a: int, position: int, length: int) -> int:
    """Of a signed number: bits behind the top repeat it."""
    if length == 0:
        return 0
    top = min(position + length - 1, 31)
    places = [position + i if i < length and position + i <= 31 else top for i in range(32)]
    return sum((a >> place & 1) << i for i, place in enumerate(places))


def bfi(a: int, b: int, position: int, length: int) -> int:
    field = ((1 << length) - 1) << position & 0xFFFFFFFF
    return b & ~field | a << position & field


def lop3(table: int) -> Callable[[int, int, int], int]:
    def of(a: int, b: int, c: int) -> int:
        return sum(
            (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i
            for i in range(32)
        )

    return of


INTEGERS: dict[str, tuple[str, int, list[Array], Oracle]] = {
    "add-wraps": ("add.s32 {d}, {a}, {b};", 32, bits(2), each(lambda a, b: a + b)),
    "sub-16": ("sub.s16 {d}, {a}, {b};", 16, bits(2, np.uint16), each(lambda a, b: a - b)),
    "mul.lo-16": ("mul.lo.s16 {d}, {a}, {b};", 16, bits(2, np.uint16), each(lambda a, b: a * b)),
    "mul.hi.s32": (
        "mul.hi.s32 {d}, {a}, {b};", 32, bits(2), each(lambda a, b: signed(a) * signed(b) >> 32),
    ),
    "mul.hi.u64": (
        "mul.hi.u64 {d}, {a}, {b};", 64, bits(2, np.uint64), each(lambda a, b: a * b >> 64),
    ),
    "mul.wide.s32": (
        "mul.wide.s32 {d}, {a}, {b};", 64, bits(2), each(lambda a, b: signed(a) * signed(b)),
    ),
    "mad.wide.s32": (
        "mad.wide.s32 {d}, {a}, {b}, {c};", 64, [*bits(2), *bits(1, np.uint64)],
        each(lambda a, b, c: signed(a) * signed(b) + c),
    ),
    "mad.lo.s64": (
        "mad.lo.s64 {d}, {a}, {b}, {c};", 64, bits(3, np.uint64), each(lambda a, b, c: a * b + c),
    ),
    "div.s32-towards-0": (
        "div.s32 {d}, {a}, {b};", 32, [bits(1)[0], small(99) + U32(1)],
        each(lambda a, b: int(signed(a) / b)),
    ),
    "rem.s32": (
        "rem.s32 {d}, {a}, {b};", 32, [bits(1)[0], small(99) + U32(1)],
        each(lambda a, b: signed(a) - int(signed(a) / b) * b),
    ),
    "min.s32": (
        "min.s32 {d}, {a}, {b};", 32, bits(2), each(lambda a, b: min(signed(a), signed(b))),
    ),
    "max.u32": ("max.u32 {d}, {a}, {b};", 32, bits(2), each(max)),
    "neg": ("neg.s32 {d}, {a};", 32, bits(1), each(lambda a: -a)),
    "shl-clamps": (
        "shl.b32 {d}, {a}, {b};", 32, [bits(1)[0], small(40)],
        each(lambda a, b: a << b if b < 32 else 0),
    ),
    "shr.u32-clamps": (
        "shr.u32 {d}, {a}, {b};", 32, [bits(1)[0], small(40)],
        each(lambda a, b: a >> b if b < 32 else 0),
    ),
    "shr.s32-clamps": (
        "shr.s32 {d}, {a}, {b};", 32, [bits(1)[0], small(40)],
        each(lambda a, b: signed(a) >> min(b, 31)),
    ),
    "shr.s16": (
        "shr.s16 {d}, {a}, {b};", 16, [bits(1, np.uint16)[0], small(20)],
        each(lambda a, b: signed(a, 16) >> min(b, 15)),
    ),
    "shf.l.wrap": (
        "shf.l.wrap.b32 {d}, {a}, {b}, {c};", 32, [*bits(2), small(64)],
        each(lambda a, b, c: (b << 32 | a) << (c & 31) >> 32),
    ),
    "bfe.s32": (
        "bfe.s32 {d}, {a}, {b}, {c};", 32, [bits(1)[0], small(36), small(36)], each(bfe),
    ),
    "bfi": (
        "bfi.b32 {d}, {a}, {b}, {c}, {e};".replace("{e}", "7"), 32, [*bits(2), small(32)],
        each(lambda a, b, c: bfi(a, b, c, 7)),
    ),
    "lop3": (
        "lop3.b32 {d}, {a}, {b}, {c}, 0xCA;", 32, bits(3), each(lop3(0xCA)),
    ),
    "prmt": ("prmt.b32 {d}, {a}, {b}, {c};", 32, bits(3), each(prmt)),
    "popc": ("popc.b32 {d}, {a};", 32, bits(1), each(lambda a: a.bit_count())),
    "clz": ("clz.b32 {d}, {a};", 32, bits(1), each(lambda a: 32 - a.bit_length())),
    "cvt.s16.s8": ("cvt.s16.s8 {d}, {a};", 16, bits(1, np.uint16), each(lambda a: signed(a, 8))),
    "cvt.sat.s8": (
        "cvt.sat.s8.s32 {d}, {a};", 32, [(bits(1)[0] >> U32(22)) - U32(512)],
        each(lambda a: max(-128, min(127, signed(a)))),
    ),
    "cvt.s64.s32": ("cvt.s64.s32 {d}, {a};", 64, bits(1), each(signed)),
    "setp-selp": (
        "setp.lt.s32 %p1, {a}, {b}; selp.b32 {d}, 1, 2, %p1;", 32, bits(2),
        each(lambda a, b: 1 if signed(a) < signed(b) else 2),
    ),
    "setp.hi-and": (
        "setp.eq.b32 %p2, {c}, 0; setp.gt.and.u32 %p1, {a}, {b}, !%p2; selp.b32 {d}, 1, 2, %p1;",
        32, [*bits(2), small(2)], each(lambda a, b, c: 1 if a > b and c else 2),
    ),
    "guard": (
        "setp.ge.u32 %p1, {a}, {b}; mov.b32 {d}, {b}; @%p1 mov.b32 {d}, {a};", 32, bits(2),
        each(max),
    ),
    "pack": (
        "{{.reg .b16 l, h; mov.b32 {{l, h}}, {a}; mov.b32 {d}, {{h, l}};}}", 32, bits(1),
        each(lambda a: a >> 16 | a << 16),
    ),
    "dp4a": (
        "dp4a.s32.s32 {d}, {a}, {b}, {c};", 32, bits(3),
        each(
            lambda a, b, c: c + sum(signed(a >> 8 * i, 8) * signed(b >> 8 * i, 8) for i in range(4))
        ),
    ),
    "redux.min": (
        "redux.sync.min.s32 {d}, {a}, -1;", 32, bits(1), lambda a: [int(a.view(S32).min())] * 32,
    ),
    "ballot": (
        "setp.lt.s32 %p1, {a}, 0; vote.sync.ballot.b32 {d}, %p1, -1;", 32, bits(1),
        lambda a: [sum(int(x < 0) << i for i, x in enumerate(a.view(S32)))] * 32,
    ),
    "shfl.bfly": (
        "shfl.sync.bfly.b32 {d}, {a}, 5, 31, -1;", 32, bits(1), lambda a: a[np.arange(32) ^ 5],
    ),
    "shfl.up": (
        "shfl.sync.up.b32 {d}|%p1, {a}, 3, 0, -1; @!%p1 add.s32 {d}, {d}, 1;", 32, bits(1),
        lambda a: np.where(np.arange(32) < 3, a + U32(1), np.roll(a, 3)),
    ),
    "shfl.idx-segments": (
        "shfl.sync.idx.b32 {d}, {a}, 2, 0x181f, -1;", 32, bits(1),
        lambda a: a[np.arange(32) // 8 * 8 + 2],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def integers() -> dict[str, Array]:
    instructions = [Instruction(text, width, given) for text, width, given, _ in INTEGERS.values()]
    return dict(zip(INTEGERS, ptx_one.run(instructions, "integers.ptx"), strict=True))


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_come_out_as_the_isa_says(name: str, integers: dict[str, Array]) -> None:
    _, width, given, oracle = INTEGERS[name]
    true = [int(value) & (1 << width) - 1 for value in oracle(*given)]
    assert integers[name].tolist() == true


def as_bits(values: Any, dtype: npt.DTypeLike, canonical: int) -> Array:
    """The bits of ``values`` rounded to ``dtype``, NaN as arithmetic makes it."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.asarray(values).astype(dtype)
    found = rounded.view(f"u{rounded.itemsize}").copy()
    found[np.isnan(rounded.astype(np.float64))] = canonical
    return found


def f32(values: Any) -> Array:
    return as_bits(values, F32, 0x7FFFFFFF)


def bf16(values: Any) -> Array:
    return as_bits(values, BF16, 0x7FFF)


def f16(values: Any) -> Array:
    return as_bits(values, np.float16, 0x7FFF)


def flush(values: Array) -> Array:
    return np.where(np.abs(values) < 2.0**-126, np.copysign(0, values), values)


def tf32(values: Array) -> Array:
    """To 10 bits of fraction, ties away from zero: half a step is added to the size."""
    raw = values.view(U32)
    rounded = (raw + U32(0x1000)) & U32(0xFFFFE000)
    return np.where(np.isfinite(values), rounded, f32(values))


def exact_fma(dtype: npt.DTypeLike, a: Array, b: Array, c: Array) -> Array:
    """One rounding of the exact a b + c: by fractions, to the nearest of a number's neighbours."""
    lanes = [[Fraction(float(x)) for x in lane] for lane in zip(a, b, c, strict=True)]
    true = [x * y + z for x, y, z in lanes]
    found = []
    for value in true:
        guess = np.array(float(value)).astype(dtype)
        raw = int(guess.view(np.uint16))
        around = np.array([raw - 1, raw, raw + 1], np.uint16).view(dtype)
        distance = [abs(Fraction(float(x)) - value) for x in around]
        least = min(distance)
        ties = [int(x.view(np.uint16)) for x, d in zip(around, distance, strict=True) if d == least]
        found.append(min(ties, key=lambda bits_: bits_ & 1))
    return np.array(found, np.uint16)


def hard_products() -> list[Array]:
    """a b lies in the middle of two bfloat16 numbers, and c is too small for a double's sum."""
    a = np.full(32, 1.0 + 2.0**-7)
    b = np.where(np.arange(32) % 2, 1.0 + 2.0**-1, 1.0 + 2.0**-6)
    c = np.where(np.arange(32) % 3 == 0, 2.0**-70, np.where(np.arange(32) % 3 == 1, -(2.0**-70), 0))
    return [x.astype(BF16) for x in (a, b, c)]


def tidy(seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=32).astype(F32)


FLOATS: dict[str, tuple[str, int, list[Array], Oracle]] = {
    "add": ("add.f32 {d}, {a}, {b};", 32, [floats(0), floats(5)], lambda a, b: f32(a + b)),
    "sub.ftz": (
        "sub.ftz.f32 {d}, {a}, {b};", 32, [floats(0), floats(6)],
        lambda a, b: f32(flush(flush(a) - flush(b))),
    ),
    "mul": ("mul.rn.f32 {d}, {a}, {b};", 32, [floats(0), floats(1)], lambda a, b: f32(a * b)),
    "fma": (
        "fma.rn.f32 {d}, {a}, {b}, {c};", 32, [tidy(0), tidy(1), tidy(2)],
        lambda a, b, c: f32(a.astype(np.longdouble) * b + c),
    ),
    "min-of-NaN": (
        "min.f32 {d}, {a}, {b};", 32, [floats(0), floats(3)], lambda a, b: f32(np.fmin(a, b)),
    ),
    "max.NaN": (
        "max.NaN.f32 {d}, {a}, {b};", 32, [floats(0), floats(3)],
        lambda a, b: f32(np.maximum(a, b)),
    ),
    "div.rn": ("div.rn.f32 {d}, {a}, {b};", 32, [floats(0), floats(2)], lambda a, b: f32(a / b)),
    "sqrt.rn": ("sqrt.rn.f32 {d}, {a};", 32, [floats(0)], lambda a: f32(np.sqrt(a))),
    "add.sat": (
        "add.sat.f32 {d}, {a}, {b};", 32, [tidy(3), tidy(4)],
        lambda a, b: f32(np.clip(a + b, 0, 1)),
    ),
    "setp.ltu": (
        "setp.ltu.f32 %p1, {a}, {b}; selp.b32 {d}, 1, 0, %p1;", 32, [floats(0), floats(4)],
        lambda a, b: ~(a >= b) * U32(1),
    ),
    "setp.num": (
        "setp.num.f32 %p1, {a}, {b}; selp.b32 {d}, 1, 0, %p1;", 32, [floats(0), floats(4)],
        lambda a, b: ~(np.isnan(a) | np.isnan(b)) * U32(1),
    ),
    "add.bf16": (
        "fma.rn.bf16 {d}, {a}, 0x3f80, {b};", 16, [tidy(5).astype(BF16), tidy(6).astype(BF16)],
        lambda a, b: bf16(a.astype(np.float64) + b.astype(np.float64)),
    ),
    "fma.bf16-once": (
        "fma.rn.bf16 {d}, {a}, {b}, {c};", 16, hard_products(), lambda *x: exact_fma(BF16, *x),
    ),
    "fma.f16-once": (
        "fma.rn.f16 {d}, {a}, {b}, {c};", 16, [tidy(i).astype(np.float16) for i in (7, 8, 9)],
        lambda *x: exact_fma(np.float16, *x),
    ),
    "cvt.bf16": ("cvt.rn.bf16.f32 {d}, {a};", 16, [floats(0)], bf16),
    "cvt.bf16-ties": ("cvt.rn.bf16.f32 {d}, {a};", 16, [halfway()], bf16),
    "cvt.rz.bf16": (
        "cvt.rz.bf16.f32 {d}, {a};", 16, [halfway()], lambda a: a.view(U32) >> U32(16),
    ),
    "cvt.bf16x2": (
        "cvt.rn.bf16x2.f32 {d}, {a}, {b};", 32, [tidy(1), halfway()],
        lambda a, b: bf16(a).astype(U32) << U32(16) | bf16(b),
    ),
    "cvt.f16": ("cvt.rn.f16.f32 {d}, {a};", 16, [floats(0)], f16),
    "cvt.f32.bf16": ("cvt.f32.bf16 {d}, {a};", 32, [floats(0).astype(BF16)], f32),
    "cvt.f32.f16": (
        "cvt.f32.f16 {d}, {a};", 32,
        [np.arange(0, 0x10000, 2053).astype(np.uint16).view(np.float16)], f32,
    ),
    "cvt.rna.tf32": ("cvt.rna.tf32.f32 {d}, {a};", 32, [tidy(2)], tf32),
    "cvt.rni": ("cvt.rni.f32.f32 {d}, {a};", 32, [floats(0)], lambda a: f32(np.rint(a))),
    "cvt.rzi.s32": (
        "cvt.rzi.s32.f32 {d}, {a};", 32, [floats(0)],
        lambda a: np.clip(np.nan_to_num(np.trunc(a.astype(float)), nan=0), -(2**31), 2**31 - 1),
    ),
    "cvt.rni.u8-saturates": (
        "cvt.rni.sat.u8.f32 {d}, {a};", 32, [floats(0)],
        lambda a: np.clip(np.nan_to_num(np.rint(a.astype(np.float64)), nan=0), 0, 255),
    ),
    "cvt.f32.s32": ("cvt.rn.f32.s32 {d}, {a};", 32, bits(1), lambda a: f32(a.view(S32))),
    "cvt.f32.u64": (
        "cvt.rn.f32.u64 {d}, {a};", 32,
        [(bits(1, np.uint64)[0] >> np.uint64(54) << np.uint64(53)) + np.uint64(1)],
        lambda a: [np.frombuffer(np.float32(Fraction(int(x))).tobytes(), U32)[0] for x in a],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def numbers() -> dict[str, Array]:
    instructions = [Instruction(text, width, given) for text, width, given, _ in FLOATS.values()]
    return dict(zip(FLOATS, ptx_one.run(instructions, "floats.ptx"), strict=True))


@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_rounded_as_the_isa_says(name: str, numbers: dict[str, Array]) -> None:
    _, width, given, oracle = FLOATS[name]
    with np.errstate(all="ignore"):
        true = [int(value) & (1 << width) - 1 for value in oracle(*given)]
    assert numbers[name].tolist() == true


# Largest relative error that the PTX ISA allows, in units of 2^-23.
APPROXIMATE: dict[str, tuple[str, Array, Oracle, float]] = {
    "ex2": ("ex2.approx.ftz.f32 {d}, {a};", 10 * tidy(1), np.exp2, 2),
    "lg2": ("lg2.approx.f32 {d}, {a};", np.exp(3 * tidy(2)) + 2, np.log2, 2),
    "rcp": ("rcp.approx.ftz.f32 {d}, {a};", tidy(3), lambda x: 1 / x, 1),
    "rsqrt": ("rsqrt.approx.f32 {d}, {a};", np.abs(tidy(4)), lambda x: 1 / np.sqrt(x), 1.5),
    "div.full": ("div.full.f32 {d}, 0f3F800000, {a};", tidy(5), lambda x: 1 / x, 2),
    "tanh": ("tanh.approx.f32 {d}, {a};", tidy(6), np.tanh, 4096),
}


def test_approximations_are_within_the_error_that_the_isa_allows() -> None:
    instructions = [Instruction(text, 32, [given]) for text, given, _, _ in APPROXIMATE.values()]
    results = ptx_one.run(instructions, "approximate.ptx")
    for (_, given, oracle, allowed), found in zip(APPROXIMATE.values(), results, strict=True):
        true = oracle(given.astype(np.float64))
        np.testing.assert_allclose(found.view(F32), true, rtol=allowed * 2.0**-23)
