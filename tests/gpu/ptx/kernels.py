"""Triton kernels whose PTX of sm_80 lies beside this file: ``python kernels.py`` writes it.

Between them they have what Triton writes for such kernels: copies that run on, matrix loads and
products in three types, scans and reductions across lanes and warps, atomics, lanes that part.
"""

# ruff: noqa: N803 - constants of a kernel are in capitals

from __future__ import annotations

from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(
    a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr
):
    """c [M, N] = a [M, K] times b [N, K] transposed."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    sum_ = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        inside = start + k < K
        rows = tl.load(a + m[:, None] * K + start + k, mask=(m[:, None] < M) & inside, other=0.0)
        columns = tl.load(
            b + n[None, :] * K + start + k[:, None], mask=(n < N) & inside[:, None], other=0.0
        )
        sum_ = tl.dot(rows, columns, sum_, input_precision=PRECISION)
    tl.store(c + m[:, None] * N + n, sum_, mask=(m[:, None] < M) & (n < N))


@triton.jit
def matmul_int4(a, b, scales, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """The same where b [N, K] is int4, two to a byte, times a scale for each row."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    half = tl.arange(0, BK // 2)
    sum_ = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        here = (m[:, None] < M) & (start + k < K)
        rows = tl.load(a + m[:, None] * K + start + k, mask=here, other=0.0)
        here = (n[:, None] < N) & (start // 2 + half < K // 2)
        packed = tl.load(b + n[:, None] * (K // 2) + start // 2 + half, mask=here, other=0)
        weight = tl.interleave((packed << 4) >> 4, packed >> 4).to(tl.bfloat16)
        sum_ = tl.dot(rows, weight.T, sum_)
    sum_ *= tl.load(scales + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(c + m[:, None] * N + n, sum_, mask=(m[:, None] < M) & (n < N))


@triton.jit
def softmax(x, y, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + at, mask=at < columns, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, 0))
    tl.store(y + row * columns + at, powers / tl.sum(powers, 0), mask=at < columns)


@triton.jit
def cumsum(x, y, count, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    values = tl.load(x + at, mask=at < count, other=0)
    tl.store(y + at, tl.cumsum(values, 0), mask=at < count)


@triton.jit
def argmax(x, largest, index, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + at, mask=at < columns, other=-float("inf"))
    value, place = tl.max(values, 0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(largest + row, value)
    tl.store(index + row, place)


@triton.jit
def gelu(x, y, count, BLOCK: tl.constexpr):
    """In bfloat16; erf's branches part the lanes of a warp."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    result = 0.5 * values * (1 + tl.erf(values * 0.7071067811865476))
    tl.store(y + at, result.to(tl.bfloat16), mask=at < count)


@triton.jit
def histogram(ids, counts, count, bins, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(ids + at, mask=at < count, other=-1)
    tl.atomic_add(counts + values, 1, mask=(values >= 0) & (values < bins))


MATRIX = {"M": "i32", "N": "i32", "K": "i32"}


def matrices(of: str, to: str = "fp32") -> dict[str, str]:
    return {"a": f"*{of}", "b": f"*{of}", "c": f"*{to}"} | MATRIX


# Name of the file: function, types, constants, warps, stages, arguments that are multiples of 16.
KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, Any], int, int, str]] = {
    "matmul_bf16": (
        matmul, matrices("bf16"), {"BM": 32, "BN": 64, "BK": 32, "PRECISION": "ieee"}, 4, 3, "abK",
    ),
    "matmul_f16": (
        matmul, matrices("fp16"), {"BM": 16, "BN": 32, "BK": 32, "PRECISION": "ieee"}, 2, 2, "",
    ),
    "matmul_tf32x3": (
        matmul, matrices("fp32"), {"BM": 16, "BN": 32, "BK": 32, "PRECISION": "tf32x3"}, 4, 2,
        "abK",
    ),
    "matmul_int4": (
        matmul_int4, {"a": "*bf16", "b": "*i8", "scales": "*bf16", "c": "*fp32"} | MATRIX,
        {"BM": 16, "BN": 32, "BK": 64}, 4, 2, "abK",
    ),
    "softmax": (softmax, {"x": "*fp32", "y": "*fp32", "columns": "i32"}, {"BLOCK": 256}, 4, 1, ""),
    "cumsum": (cumsum, {"x": "*i32", "y": "*i32", "count": "i32"}, {"BLOCK": 512}, 4, 1, ""),
    "argmax": (
        argmax, {"x": "*fp32", "largest": "*fp32", "index": "*i32", "columns": "i32"},
        {"BLOCK": 256}, 4, 1, "",
    ),
    "gelu": (gelu, {"x": "*bf16", "y": "*bf16", "count": "i32"}, {"BLOCK": 256}, 4, 1, ""),
    "histogram": (
        histogram, {"ids": "*i32", "counts": "*i32", "count": "i32", "bins": "i32"},
        {"BLOCK": 256}, 4, 1, "",
    ),
}  # fmt: skip


def ptx_of(name: str) -> tuple[str, int]:
    """The PTX, and the bytes of shared memory that a launch needs."""
    function, types, constants, warps, stages, aligned = KERNELS[name]
    names = list(types)
    attributes = {
        (i,): [["tt.divisibility", 16]] for i, argument in enumerate(names) if argument in aligned
    }
    source = ASTSource(
        fn=function,
        signature=types | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs=attributes,
    )
    options = {"num_warps": warps, "num_stages": stages, "ptx_version": 80}
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    return compiled.asm["ptx"], compiled.metadata.shared


if __name__ == "__main__":
    for kernel in KERNELS:
        text, shared = ptx_of(kernel)
        first = f"// {kernel}: {shared} bytes of shared memory, {32 * KERNELS[kernel][3]} threads\n"
        Path(__file__).with_name(f"{kernel}.ptx").write_text(first + text)
