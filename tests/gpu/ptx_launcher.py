"""The launcher of plugins/kernels/cuda on the mock driver: ops as functions of NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import ExpertsSpec, RouterSpec
from tools.ptx.build import CACHE

from .ptx_driver import Driver, Memory

Array = npt.NDArray[Any]

SCORES = ["softmax", "sigmoid", "softmax_topk", "sigmoid_topk"]
GROUP_SCORES = ["max", "top2_sum"]
ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu", "relu2", "identity", "swiglu_clamped"]
FORMATS = {"f32": 0, "bf16": 1, "f16": 2, "int8": 3, "int4": 4}
ROWS = {"f32": 0, "bf16": 1}
TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 2}


class Matrix(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("format", "experts", "rows", "columns", "block")),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    ]


class Spec(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("activation", "gated", "weight_on_input")),
        ("alpha", ctypes.c_float),
        ("limit", ctypes.c_float),
        ("row_format", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("up", Matrix),
        ("down", Matrix),
        ("up_bias", ctypes.c_void_p),
        ("down_bias", ctypes.c_void_p),
    ]


class LauncherError(Exception):
    """The words of the launcher."""


def build_launcher(sources: Path, gpu: Path) -> Path:
    """The launcher and the shim as a library; ``gpu`` is what compile_kernels.py wrote."""
    shim = Path(__file__).with_name("ptx_shim.cc")
    files = [*sorted(sources.glob("cuda/*.cc")), shim]
    looked_at = [*files, *sources.glob("*.h"), *sources.glob("cuda/*.h")]
    looked_at += [gpu / "kernel_table.inc", gpu / "moe_kernels.fatbin"]
    digest = hashlib.sha256()
    for file in sorted(looked_at):
        digest.update(file.name.encode() + file.read_bytes())
    library = CACHE / f"launcher-{digest.hexdigest()[:16]}" / "libmoe_cuda_shim.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    part = library.with_suffix(f".{os.getpid()}.part")
    compiler = os.environ.get("CXX", "c++").split()
    command = [
        *compiler, "-std=c++17", "-O1", "-fPIC", "-shared", f"-I{sources}", f"-I{gpu}",
        f'-DMOE_EXPORT_GPU_IMAGE="{gpu / "moe_kernels.fatbin"}"', *map(str, files),
        "-ldl", "-o", str(part),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    part.rename(library)
    return library


def packed(values: Array) -> Array:
    """int4 as the kernels store it: two to a byte."""
    if values.dtype != ml_dtypes.int4:
        return values
    whole = values.astype(np.int8)
    return (whole[..., 0::2] & 15 | whole[..., 1::2] << 4).astype(np.int8)


class Launcher:
    def __init__(self, driver: Driver, library: Path) -> None:
        self.driver = driver
        self.library = ctypes.CDLL(str(library))
        words = ("ready", "route", "experts", "dispatch", "grouped_matmul", "combine")
        for word in words:
            getattr(self.library, f"shim_{word}").restype = ctypes.c_char_p
        for word in words[2:]:
            getattr(self.library, f"shim_{word}_workspace").restype = ctypes.c_uint64
        self.check(self.library.shim_ready())

    def check(self, words: bytes | None) -> None:
        if words is not None:
            raise LauncherError(words.decode())

    def route(
        self, logits: Array, spec: RouterSpec, bias: Array | None, scale: Array | None
    ) -> tuple[Array, Array]:
        shape = (len(logits), spec.top_k)
        sizes = (ctypes.c_uint64 * 7)(
            spec.num_experts, spec.top_k, SCORES.index(spec.score), spec.normalize,
            spec.num_groups, spec.topk_groups, GROUP_SCORES.index(spec.group_score),
        )  # fmt: skip
        numbers = (ctypes.c_float * 3)(spec.normalize_eps, spec.normalize_min, spec.routed_scaling)
        with Memory(self.driver) as memory:
            weights, ids = (memory.empty(4 * shape[0] * shape[1]) for _ in range(2))
            inputs = [_pointer(memory.of(array)) for array in (logits, bias, scale)]
            tokens, outputs = ctypes.c_uint64(shape[0]), map(_pointer, (weights, ids))
            self.check(self.library.shim_route(sizes, numbers, *inputs, tokens, *outputs))
            return memory.read(weights, shape, np.float32), memory.read(ids, shape, np.int32)

    def experts(self, spec: ExpertsSpec, inputs: dict[str, Array]) -> Array:
        x, ids = inputs["x"], inputs["topk_ids"]
        with Memory(self.driver) as memory:
            up, down = (
                matrix(memory, inputs.get(n), inputs.get(f"{n}_scales"), spec.block_size)
                for n in ("up", "down")
            )
            biases = (memory.of(inputs.get(f"{name}_bias")) or None for name in ("up", "down"))
            c = Spec(
                ACTIVATIONS.index(spec.activation), spec.gated, spec.weight_on == "input",
                spec.alpha, spec.limit, ROWS[spec.row_format], TYPES[x.dtype], up, down, *biases,
            )  # fmt: skip
            sizes = [ctypes.c_uint64(size) for size in ids.shape]
            bytes_ = self.library.shim_experts_workspace(ctypes.byref(c), *sizes)
            shape = (len(x), spec.output_size)
            y, workspace = memory.empty(shape[0] * shape[1] * x.itemsize), memory.empty(bytes_)
            given = [_pointer(memory.of(inputs[n])) for n in ("x", "topk_ids", "topk_weights")]
            result = self.library.shim_experts(
                ctypes.byref(c), *given, *sizes, _pointer(y), _pointer(workspace)
            )
            self.check(result)
            return memory.read(y, shape, x.dtype)

    def dispatch(self, topk_ids: Array, num_experts: int) -> tuple[Array, Array]:
        sizes = [ctypes.c_uint64(topk_ids.size), ctypes.c_uint64(num_experts)]
        with Memory(self.driver) as memory:
            order = memory.empty(4 * topk_ids.size)
            offsets = memory.empty(4 * (num_experts + 1))
            workspace = memory.empty(self.library.shim_dispatch_workspace(*sizes))
            places = map(_pointer, (order, offsets, workspace))
            self.check(self.library.shim_dispatch(_pointer(memory.of(topk_ids)), *sizes, *places))
            found = memory.read(offsets, (num_experts + 1,), np.int32)
            return memory.read(order, (topk_ids.size,), np.int32), found

    def grouped_matmul(self, inputs: dict[str, Array], block_size: int, row_format: str) -> Array:
        x, weights = inputs["x_sorted"], inputs["weights"]
        rows = ctypes.c_uint64(len(x))
        with Memory(self.driver) as memory:
            m = matrix(memory, weights, inputs.get("scales"), block_size)
            how = [ctypes.c_int32(ROWS[row_format]), ctypes.c_int32(TYPES[x.dtype])]
            need = self.library.shim_grouped_matmul_workspace(ctypes.byref(m), *how, rows)
            shape = (len(x), weights.shape[1])
            y, workspace = memory.empty(shape[0] * shape[1] * x.itemsize), memory.empty(need)
            bias, *given = (
                _pointer(memory.of(inputs.get(n))) for n in ("bias", "x_sorted", "expert_offsets")
            )
            result = self.library.shim_grouped_matmul(
                ctypes.byref(m), bias, *how, *given, rows, _pointer(y), _pointer(workspace)
            )
            self.check(result)
            return memory.read(y, shape, x.dtype)

    def combine(self, y_sorted: Array, order: Array, topk_weights: Array) -> Array:
        shape = (len(topk_weights), y_sorted.shape[1])
        sizes = [ctypes.c_uint64(size) for size in (*topk_weights.shape, shape[1])]
        with Memory(self.driver) as memory:
            y = memory.empty(shape[0] * shape[1] * y_sorted.itemsize)
            need = self.library.shim_combine_workspace(ctypes.c_uint64(topk_weights.size))
            workspace = memory.empty(need)
            given = [_pointer(memory.of(array)) for array in (y_sorted, order, topk_weights)]
            type_ = ctypes.c_int32(TYPES[y_sorted.dtype])
            places = map(_pointer, (y, workspace))
            self.check(self.library.shim_combine(type_, *given, *sizes, *places))
            return memory.read(y, shape, y_sorted.dtype)


def matrix(memory: Memory, values: Array | None, scales: Array | None, block_size: int) -> Matrix:
    if values is None:
        return Matrix(0, 0, 0, 0, 0, None, None)
    names = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(np.int8): "int8"}
    names |= {np.dtype(ml_dtypes.bfloat16): "bf16", np.dtype(ml_dtypes.int4): "int4"}
    stored = None if scales is None else scales.astype(ml_dtypes.bfloat16)
    places = (memory.of(packed(values)) or None, memory.of(stored) or None)
    return Matrix(FORMATS[names[values.dtype]], *values.shape, block_size, *places)


def _pointer(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(address or None)
