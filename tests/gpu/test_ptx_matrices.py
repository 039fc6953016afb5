"""Matrix instructions lay numbers out over the lanes as the PTX ISA draws them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tools.ptx.device import Input, Module, Output

Array = npt.NDArray[Any]

LANES = np.arange(32)
GROUP, PLACE = LANES // 4, LANES % 4
HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
# Type, K, elements of a register, the type of NumPy.
SHAPES = {
    "bf16": ("f32.bf16.bf16.f32", 16, ml_dtypes.bfloat16, np.float32),
    "f16": ("f32.f16.f16.f32", 16, np.float16, np.float32),
    "f16-k8": ("f32.f16.f16.f32", 8, np.float16, np.float32),
    "tf32": ("f32.tf32.tf32.f32", 8, np.float32, np.float32),
    "s8": ("s32.s8.s8.s32", 32, np.int8, np.int32),
}


def fragments(matrix: Array, rows: int) -> Array:
    """[registers, 32] of a [rows, K]: row by group, then 8 below, then the next columns."""
    per = 4 // matrix.itemsize
    step = 4 * per
    found = []
    for first in range(0, matrix.shape[1], step):
        for below in range(0, rows, 8):
            columns = first + per * PLACE[:, None] + np.arange(per)
            numbers = np.ascontiguousarray(matrix[below + GROUP[:, None], columns])
            found.append(numbers.view(np.uint32)[:, 0])
    return np.array(found)


def product_kernel(types: str, k: int, left: int, right: int) -> str:
    """Out [4, 32] of in [left + right + 4, 32], one warp."""
    count = left + right + 4
    names = [f"%r{i}" for i in range(count)]
    a, b, c = names[:left], names[left : left + right], names[left + right :]
    vectors = ", ".join("{" + ", ".join(x) + "}" for x in (c, a, b, c))
    return "\n".join(
        [
            HEAD + ".visible .entry product(.param .u64 in, .param .u64 out) .reqntid 32 {",
            ".reg .b32 %r<32>; .reg .b64 %rd<4>;",
            "ld.param.b64 %rd0, [in]; ld.param.b64 %rd1, [out];",
            "mov.u32 %r31, %tid.x;",
            "mad.wide.u32 %rd0, %r31, 4, %rd0; mad.wide.u32 %rd1, %r31, 4, %rd1;",
            *[f"ld.global.b32 {name}, [%rd0+{128 * i}];" for i, name in enumerate(names)],
            f"mma.sync.aligned.m16n8k{k}.row.col.{types} {vectors};",
            *[f"st.global.b32 [%rd1+{128 * i}], {name};" for i, name in enumerate(c)],
            "ret; }",
        ]
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_product_of_fragments_is_the_product_of_matrices(name: str) -> None:
    types, k, dtype, sum_type = SHAPES[name]
    rng = np.random.default_rng(3)
    draw = (
        (lambda *s: rng.integers(-128, 128, size=s))
        if name == "s8"
        else (lambda *s: rng.normal(size=s))
    )
    a, b = draw(16, k).astype(dtype), draw(8, k).astype(dtype)
    if name == "tf32":  # only numbers that a device keeps whole
        a, b = ((x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for x in (a, b))
    c = draw(16, 8).astype(sum_type)
    left, right = fragments(a, 16), fragments(b, 8)
    # The sum's registers hold two neighbours of row g, then two of row g + 8.
    pairs = [c[GROUP + 8 * (i // 2), 2 * PLACE + i % 2] for i in range(4)]
    given = np.concatenate([left, right, np.array(pairs, sum_type).view(np.uint32)])
    out = np.zeros((4, 32), sum_type)
    module = Module.of_text(product_kernel(types, k, len(left), len(right)), f"mma_{name}.ptx")
    module.launch("product", [Input(given), Output(out)], grid=[1], threads=32)
    found = np.zeros((16, 8), sum_type)
    for i in range(4):
        found[GROUP + 8 * (i // 2), 2 * PLACE + i % 2] = out[i]
    wide = [x.astype(np.float64) for x in (a, b, c)]
    true = wide[0] @ wide[1].T + wide[2]
    size = np.abs(wide[0]) @ np.abs(wide[1]).T + np.abs(wide[2])
    eps = np.finfo(np.float32).eps if sum_type == np.float32 else 0
    assert (np.abs(found - true) <= k * eps * size).all()


def copy_kernel(instruction: str, registers: int) -> str:
    """In [256] b32 to shared memory, from there to out [registers, 32] as `instruction` reads."""
    names = ", ".join(f"%r{i}" for i in range(registers))
    return "\n".join(
        [
            HEAD + ".extern .shared .align 16 .b8 smem[];",
            ".visible .entry copy(.param .u64 in, .param .u64 out) .reqntid 32 {",
            ".reg .b32 %r<32>; .reg .b64 %rd<4>;",
            "ld.param.b64 %rd0, [in]; ld.param.b64 %rd1, [out];",
            "mov.u32 %r31, %tid.x; mov.b32 %r30, smem; shl.b32 %r29, %r31, 4;",
            "add.s32 %r28, %r30, %r29;",
            "mad.wide.u32 %rd2, %r31, 16, %rd0; mad.wide.u32 %rd1, %r31, 4, %rd1;",
            "cp.async.cg.shared.global [%r28], [%rd2], 16;",
            "cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;",
            f"{instruction} {{{names}}}, [%r28];",
            *[f"st.global.b32 [%rd1+{128 * i}], %r{i};" for i in range(registers)],
            "ret; }",
        ]
    )


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_gives_a_lane_two_neighbours_of_its_row(*, count: int, transposed: bool) -> None:
    numbers = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    form = f"ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16"
    out = np.zeros((count, 32), np.uint32)
    module = Module.of_text(copy_kernel(form, count), f"ldmatrix_x{count}_{transposed}.ptx")
    arguments = [Input(numbers.reshape(-1)), Output(out)]
    module.launch("copy", arguments, grid=[1], threads=32, shared=512)
    for k in range(count):
        matrix = numbers[k].T if transposed else numbers[k]
        pairs = np.stack([matrix[GROUP, 2 * PLACE], matrix[GROUP, 2 * PLACE + 1]], axis=1)
        np.testing.assert_array_equal(out[k].view(np.uint16).reshape(32, 2), pairs)
