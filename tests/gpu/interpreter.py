"""Triton's interpreter, with bfloat16 and fused products as a GPU has them.

TRITON_INTERPRET=1 has to be set before.

The interpreter holds bfloat16 as bit patterns and knows them in loads, stores and widening alone:
its casts truncate and its dots multiply the patterns.  It also takes the type of a comparison of
scalars for that of what is compared when it makes a vector of it.  What is replaced here is that,
and nothing of the kernels.  Loads and stores go to plain addresses, so an access out of bounds is
not noticed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.interpreter import TensorHandle, interpreter_builder

KERNELS = Path(__file__).resolve().parents[2] / "plugins/kernels/cuda"
sys.path.insert(0, str(KERNELS))

import stored  # noqa: E402
import tiles  # noqa: E402

Array = np.ndarray[Any, Any]

POINTED = {
    "fp32": tl.float32,
    "fp16": tl.float16,
    "bf16": tl.bfloat16,
    "i32": tl.int32,
    "i8": tl.int8,
}
SCALARS = {"i32": (np.int32, tl.int32), "fp32": (np.float32, tl.float32)}


def to_bfloat16(values: Array) -> Array:
    """float32 to bit patterns: nearest, ties to even, NaN stays NaN."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


def to_float32(handle: TensorHandle) -> Array:
    if handle.dtype.scalar != tl.bfloat16:
        return handle.data.astype(np.float32)
    return (handle.data.astype(np.uint32) << 16).view(np.float32)


def cast(builder: Any, source: TensorHandle, target: Any) -> TensorHandle:
    if tl.bfloat16 not in (source.dtype.scalar, target.scalar):
        data = source.data.astype(triton_interpreter._get_np_dtype(target))
    elif target.scalar == tl.bfloat16:
        data = to_bfloat16(to_float32(source))
    else:
        data = to_float32(source).astype(triton_interpreter._get_np_dtype(target))
    return TensorHandle(data, target.scalar)


def dot(builder: Any, a: TensorHandle, b: TensorHandle, d: TensorHandle, *_: Any) -> TensorHandle:
    with np.errstate(invalid="ignore", over="ignore"):
        return TensorHandle(np.matmul(to_float32(a), to_float32(b)) + d.data, d.dtype.scalar)


def fma(builder: Any, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
    with np.errstate(invalid="ignore", over="ignore"):
        exact = x.data.astype(np.float64) * y.data + z.data
        return TensorHandle(exact.astype(np.float32), z.dtype.scalar)


def splat(builder: Any, target: Any, source: TensorHandle) -> TensorHandle:
    return TensorHandle(np.full(target.shape, source.data, source.data.dtype), source.dtype.scalar)


def patch() -> None:
    builder = type(interpreter_builder)
    builder.cast_impl = cast
    builder.create_dot = dot
    builder.create_fma = fma
    builder.create_splat = splat


patch()


@triton.jit
def in_fours(packed: Any, ASSEMBLY: tl.constexpr) -> Any:  # noqa: N803, as the kernels have it
    """What the assembly in stored.py makes of bytes, which the interpreter does not run."""
    if ASSEMBLY == stored.LOW_INT4_TO_BF16:
        packed = (packed << 4) >> 4
    elif ASSEMBLY == stored.HIGH_INT4_TO_BF16:
        packed = packed >> 4
    return packed.to(tl.bfloat16)


stored.in_fours = in_fours


def pointer(array: Array | None, element: str) -> Any:
    address = 0 if array is None else array.ctypes.data
    kind = tl.pointer_type(POINTED[element])
    return tl.tensor(TensorHandle(np.array([address], np.uint64), kind), kind)


def scalar(value: float, kind: str) -> Any:
    numpy_type, triton_type = SCALARS[kind]
    return tl.tensor(TensorHandle(np.array([value], numpy_type), triton_type), triton_type)


BY_NAME = {kernel.name: kernel for kernel in tiles.kernels("80")}


def launch(name: str, grid: tuple[int, ...], **arguments: Any) -> None:
    """One kernel of ``tiles.py`` by name; arguments are arrays (or None) and numbers."""
    kernel = BY_NAME[name]
    if set(arguments) != set(kernel.types):
        raise TypeError(f"{name} takes {list(kernel.types)}, got {list(arguments)}")
    typed = {}
    for argument, kind in kernel.types.items():
        value = arguments[argument]
        typed[argument] = pointer(value, kind[1:]) if kind.startswith("*") else scalar(value, kind)
    if 0 not in grid:
        function = getattr(importlib.import_module(kernel.source), kernel.function)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            function[grid](**typed, **kernel.constants)
