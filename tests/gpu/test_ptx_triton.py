"""Kernels that Triton compiled, against float64; and faults planted in their PTX, all caught."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tools.ptx.device import Address, InOut, Input, KernelError, Module, Output

Array = npt.NDArray[Any]

PTX = Path(__file__).parent / "ptx"
EPS = float(np.finfo(np.float32).eps)
# Two pointers that Triton's kernels end in and these do not use.
NO_SCRATCH = [Address(0), Address(0)]
RNG = np.random.default_rng(4)


def text_of(name: str) -> str:
    return (PTX / f"{name}.ptx").read_text()


def launch(name: str, arguments: list[Any], grid: list[int], text: str | None = None) -> None:
    """A launch with the shared memory and threads that the file's first line names."""
    source = text or text_of(name)
    shared, threads = map(int, re.findall(r"(\d+) (?:bytes|threads)", source.split("\n", 1)[0]))
    kernel = re.search(r"\.entry (\w+)", source)
    assert kernel is not None
    Module.of_text(source, f"{name}.ptx").launch(
        kernel.group(1), [*arguments, *NO_SCRATCH], grid=grid, threads=threads, shared=shared
    )


MATMULS = {
    # Name: type, rows and columns of a tile, bits of a product's factors.
    "matmul_bf16": (ml_dtypes.bfloat16, 32, 64),
    "matmul_f16": (np.float16, 16, 32),
    "matmul_tf32x3": (np.float32, 16, 32),
}


def matmul(
    name: str, m: int, n: int, k: int, text: str | None = None
) -> tuple[Array, Array, Array]:
    """What the kernel gives, what is true, and how far off it may be."""
    dtype, tile_m, tile_n = MATMULS[name]
    a, b = RNG.normal(size=(m, k)).astype(dtype), RNG.normal(size=(n, k)).astype(dtype)
    c = np.zeros((m, n), np.float32)
    grid = [-(-m // tile_m), -(-n // tile_n)]
    launch(name, [Input(a), Input(b), Output(c), m, n, k], grid, text)
    a, b = a.astype(np.float64), b.astype(np.float64)
    # Three products of TF32 parts leave out the product of two rests of 2^-11 each.
    lost = 2.0**-21 if name == "matmul_tf32x3" else 0
    return c, a @ b.T, (k * EPS + lost) * (np.abs(a) @ np.abs(b).T)


@pytest.mark.parametrize("shape", [(1, 1, 16), (37, 70, 48), (64, 64, 160)])
@pytest.mark.parametrize("name", MATMULS)
def test_a_matmul_of_odd_sizes_is_one(name: str, shape: tuple[int, int, int]) -> None:
    found, true, bound = matmul(name, *shape)
    assert (np.abs(found - true) <= bound).all()


def test_a_matmul_without_columns_is_zero() -> None:
    found, _, _ = matmul("matmul_bf16", 5, 7, 0)
    assert (found == 0).all()


def test_int4_is_unpacked_in_order() -> None:
    m, n, k = 9, 40, 96
    a = RNG.normal(size=(m, k)).astype(ml_dtypes.bfloat16)
    q = RNG.integers(-8, 8, size=(n, k))
    packed = (q[:, 0::2] & 15 | q[:, 1::2] << 4).astype(np.int8)
    scales = RNG.uniform(0.5, 2, size=n).astype(ml_dtypes.bfloat16)
    c = np.zeros((m, n), np.float32)
    arguments = [Input(a), Input(packed), Input(scales), Output(c), m, n, k]
    launch("matmul_int4", arguments, [1, 2])
    weight = q * scales.astype(np.float64)[:, None]
    true, size = a.astype(np.float64) @ weight.T, np.abs(a.astype(np.float64)) @ np.abs(weight).T
    assert (np.abs(c - true) <= (k + 1) * EPS * size).all()


def test_softmax_rows_sum_to_one() -> None:
    x = (5 * RNG.normal(size=(3, 201))).astype(np.float32)
    y = np.zeros_like(x)
    launch("softmax", [Input(x), Output(y), 201], [3])
    powers = np.exp(x - x.max(1, keepdims=True).astype(np.float64))
    true = powers / powers.sum(1, keepdims=True)
    # exp(x) is ex2(x log2 e): the product's rounding counts as often as x is large.
    bound = (np.abs(x - x.max(1, keepdims=True)) + 201 + 8) * EPS
    assert (np.abs(y - true) <= bound * true).all()


@pytest.mark.parametrize("count", [1, 130, 512])
def test_cumsum_is_exact(count: int) -> None:
    x = RNG.integers(-(2**31), 2**31, size=count).astype(np.int32)
    y = np.zeros_like(x)
    launch("cumsum", [Input(x), Output(y), count], [1])
    np.testing.assert_array_equal(y, np.cumsum(x.astype(np.int64)).astype(np.int32))


def test_argmax_of_ties_is_the_first() -> None:
    x = np.round(RNG.normal(size=(6, 250))).astype(np.float32)
    x[0] = 1
    largest, index = np.zeros(6, np.float32), np.zeros(6, np.int32)
    launch("argmax", [Input(x), Output(largest), Output(index), 250], [6])
    np.testing.assert_array_equal(index, x.argmax(1))
    np.testing.assert_array_equal(largest, x.max(1))


def test_lanes_that_part_in_erf_meet_again() -> None:
    x = (3 * RNG.normal(size=777)).astype(ml_dtypes.bfloat16)
    y = np.zeros_like(x)
    launch("gelu", [Input(x), Output(y), 777], [4])
    wide = x.astype(np.float64)
    true = 0.5 * wide * (1 + np.vectorize(math.erf)(wide * np.sqrt(0.5)))
    bound = 2.0**-8 * np.abs(true) + 4 * EPS * np.abs(wide)
    assert (np.abs(y.astype(np.float64) - true) <= bound).all()


def test_atomics_count_every_id() -> None:
    ids = RNG.integers(-2, 12, size=700).astype(np.int32)
    counts = np.zeros(10, np.int32)
    launch("histogram", [Input(ids), InOut(counts), 700, 10], [3])
    true = np.bincount(ids[(ids >= 0) & (ids < 10)], minlength=10)
    np.testing.assert_array_equal(counts, true)


# ---------------------------------------------------------------- planted faults


def change(pattern: str, to: str, number: int = 0) -> Callable[[str], str]:
    """The text with one of the places that match changed; there has to be one."""

    def changed(text: str) -> str:
        place = list(re.finditer(pattern, text))[number]
        return text[: place.start()] + place.expand(to) + text[place.end() :]

    return changed


# What is changed in matmul_bf16, and the check that finds it: words of an error, or the numbers.
FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "ldmatrix of a shifted address": (
        change(r"(ldmatrix[^\[]*\[%r\d+)\+1024\]", r"\1+1040]"),
        "numbers|no barrier|nobody|launch has",
    ),
    "ldmatrix of the next stage": (
        change(r"(ldmatrix[^\[]*\[%r\d+)\+9216\]", r"\1+11264]"),
        "nobody has|not have written|numbers",
    ),
    "ldmatrix off by one element": (
        change(r"(ldmatrix[^\[]*\[%r\d+)\+1024\]", r"\1+1026]"), "not aligned to 16",
    ),
    "a first wait that comes a copy late": (
        change(r"cp\.async\.wait_group \t2", "cp.async.wait_group 3"), "may not have written yet",
    ),
    "a wait in the loop that comes a copy late": (
        change(r"(cp\.async\.wait_group \t)2;\s+\1[2]", r"\g<1>3"), "may not have written yet",
    ),
    "swapped registers of a": (
        change(r"(mma\S+ \{[^}]*\}, \{ )(%r\d+), (%r\d+)", r"\1\3, \2"), "numbers",
    ),
    "swapped registers of b": (
        change(r"(mma\S+ \{[^}]*\}, \{[^}]*\}, \{ )(%r\d+), (%r\d+)", r"\1\3, \2", 2), "numbers",
    ),
    "a sum that loses its sum": (
        change(r"(mma\S+ \{ (%r\d+), (%r\d+).*\}, \{ )\2, \3", r"\1\3, \2", 1), "numbers",
    ),
    "a store without its mask": (
        change(r"@%p\d+ (st\.global)", r"\1", -1), "outside of every buffer",
    ),
    "a store with another's mask": (
        change(r"@%p\d+ (st\.global)", r"@%p15 \1", -1), "outside|overwrites",
    ),
    "one row too many": (change(r"setp\.lt\.s32", "setp.le.s32"), "outside of every buffer"),
    "one column of K too many": (
        change(r"setp\.lt\.s32(\s+%p12,)", r"setp.le.s32\1"), "numbers|outside of every buffer",
    ),
    "one column of c too many": (
        change(r"setp\.lt\.s32", "setp.le.s32", -1), "overwrites .*, which block 0 wrote",
    ),
    "no barrier before the first tile is read": (
        change(r"bar\.sync \t0;", ""), "nobody has written|no barrier in between|not have written",
    ),
    "no barrier before a tile is written over": (
        change(r"bar\.sync \t0;", "", 2), "not have written yet|no barrier in between",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str) -> None:
    plant, words = FAULTS[name]
    text = plant(text_of("matmul_bf16"))
    assert text != text_of("matmul_bf16")
    try:
        found, true, bound = matmul("matmul_bf16", 37, 70, 112, text)
    except KernelError as fault:
        said = str(fault)
    else:
        assert not (np.abs(found - true) <= bound).all(), "the fault does no harm"
        said = "numbers"
    assert re.search(words, said), said
