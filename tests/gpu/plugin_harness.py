"""The host harness of ``plugins/tests/tensorrt``: a plugin's life without TensorRT."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from house.pages import ROOT
from moe_export.moe.layer import AttributeValue

from .plugin_nodes import PluginNode, packed

Array = npt.NDArray[Any]

BUILD = ROOT / "build" / "gpu-native" / "plugins"
HOST_LIBRARY = BUILD / "tests" / "tensorrt" / "libmoe_export_trt_host.so"
GPU_LIBRARY = BUILD / "tensorrt" / "libmoe_export_trt.so"
HARNESS = BUILD / "tests" / "tensorrt" / "libtrt_harness.so"

# TensorRT's numbers of its types.
TYPES = {
    np.dtype(np.float32): 0,
    np.dtype(np.float16): 1,
    np.dtype(np.int8): 2,
    np.dtype(np.int32): 3,
    np.dtype(ml_dtypes.bfloat16): 7,
    np.dtype(np.int64): 8,
    np.dtype(ml_dtypes.int4): 9,
}
DTYPES = {number: dtype for dtype, number in TYPES.items()}
_FIELD_FLOAT32, _FIELD_INT32, _FIELD_CHAR = 1, 5, 6
_DIMS = c_int64 * 8
_WORDS = 4096


class HarnessError(Exception):
    """What the harness says where a plugin does not do what TensorRT needs."""


class _Field(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("data", c_void_p), ("type", c_int32), ("length", c_int32))


class _Input(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("dims", _DIMS),
        ("min", _DIMS),
        ("max", _DIMS),
        ("type", c_int32),
        ("rank", c_int32),
    )


class _Output(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("bytes", c_size_t),
        ("dims", _DIMS),
        ("type", c_int32),
        ("rank", c_int32),
    )


class _Node(ctypes.Structure):
    _fields_ = (
        ("op", c_char_p),
        ("name", c_char_p),
        ("fields", POINTER(_Field)),
        ("inputs", POINTER(_Input)),
        ("field_count", c_int32),
        ("input_count", c_int32),
        ("shifted", c_int32),
    )


class Harness:
    """One plugin library under the harness.  Its kernels read ``host`` or ``driver`` memory."""

    def __init__(self, library: Path, memory: str = "host") -> None:
        self._memory = memory.encode()
        self._api = ctypes.CDLL(str(HARNESS), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        self._api.trt_open.restype = c_void_p
        self._library = self._call(self._api.trt_open, str(library).encode(), failed=None)

    def live(
        self,
        node: PluginNode,
        *,
        most_tokens: int = 0,
        name: str = "layers.0",
        shifted: bool = False,
    ) -> list[Array]:
        """The outputs of the node, whose plugin was built for up to ``most_tokens`` tokens.

        Where ``shifted``, inputs and outputs of the graph begin one element late, as a user's may.
        """
        outputs, count, workspace = (_Output * 2)(), c_int32(), c_size_t()
        memory = _Memory()
        arguments = memory.node(node, name, most_tokens)
        arguments.shifted = int(shifted)
        self._call(
            self._api.trt_live,
            c_void_p(self._library),
            ctypes.byref(arguments),
            self._memory,
            outputs,
            ctypes.byref(count),
            ctypes.byref(workspace),
        )
        try:
            return [_array_of(output) for output in outputs[: count.value]]
        finally:
            for output in outputs[: count.value]:
                self._api.trt_free(c_void_p(output.data))

    def seconds(self, node: PluginNode, runs: int) -> float:
        """Of one enqueue on the device, a mean of ``runs``, nothing of use in its cache before."""
        taken, memory = ctypes.c_double(), _Memory()
        arguments = memory.node(node, "layers.0", 0)
        library, asked = c_void_p(self._library), ctypes.byref(arguments)
        self._call(self._api.trt_time, library, asked, self._memory, runs, ctypes.byref(taken))
        return taken.value

    def types_taken(self, node: PluginNode, position: int) -> set[np.dtype[Any]]:
        """The types that input or output ``position`` takes beside the node's other tensors."""
        bits, memory = ctypes.c_uint32(), _Memory()
        arguments = memory.node(node, "layers.0", 0)
        library, asked = c_void_p(self._library), ctypes.byref(arguments)
        self._call(self._api.trt_types_taken, library, asked, position, ctypes.byref(bits))
        return {DTYPES[bit] for bit in range(32) if bits.value >> bit & 1}

    def serialised(self, node: PluginNode, name: str = "layers.0") -> dict[str, AttributeValue]:
        fields, memory = (_Field * 64)(), _Memory()
        arguments = memory.node(node, name, 0)
        library, asked = c_void_p(self._library), ctypes.byref(arguments)
        count = self._call(self._api.trt_serialised, library, asked, fields, 64, failed=-1)
        return dict(map(_value_of, fields[:count]))

    def declared(self, op: str) -> dict[str, AttributeValue]:
        """The attributes that the op's creator declares, with their defaults."""
        fields, library = (_Field * 64)(), c_void_p(self._library)
        count = self._call(self._api.trt_declared, library, op.encode(), fields, 64, failed=-1)
        return dict(map(_value_of, fields[:count]))

    def _call(self, function: Any, *arguments: Any, failed: object = 1) -> Any:
        words = ctypes.create_string_buffer(_WORDS)
        result = function(*arguments, words, c_size_t(_WORDS))
        if result == failed:
            raise HarnessError(words.value.decode())
        return result


class _Memory:
    """Keeps alive what C structures point to."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def node(self, node: PluginNode, name: str, most_tokens: int) -> _Node:
        fields = [self._field(*item) for item in node.all_attributes().items()]
        axes = dynamic_axes(node)
        inputs = [
            self._input(array, name in axes, most_tokens) for name, array in node.inputs.items()
        ]
        field_array = (_Field * len(fields))(*fields)
        input_array = (_Input * len(inputs))(*inputs)
        self._kept += [field_array, input_array]
        return _Node(
            node.op.encode(), name.encode(), field_array, input_array, len(fields), len(inputs)
        )

    def _field(self, name: str, value: AttributeValue) -> _Field:
        data: Any
        if isinstance(value, str):
            data, kind, length = (
                ctypes.create_string_buffer(value.encode()),
                _FIELD_CHAR,
                len(value) + 1,
            )
        elif isinstance(value, int):
            data, kind, length = c_int32(value), _FIELD_INT32, 1
        else:
            data, kind, length = ctypes.c_float(value), _FIELD_FLOAT32, 1
        self._kept.append(data)
        return _Field(name.encode(), ctypes.addressof(data), kind, length)

    def _input(self, array: Array, is_dynamic: bool, most_tokens: int) -> _Input:
        memory = packed(array)
        self._kept.append(memory)
        low, high = list(array.shape), list(array.shape)
        if is_dynamic:
            low[0], high[0] = 0, max(high[0], most_tokens)
        return _Input(
            memory.ctypes.data,
            _DIMS(*array.shape),
            _DIMS(*low),
            _DIMS(*high),
            TYPES[array.dtype],
            array.ndim,
        )


def dynamic_axes(node: PluginNode) -> set[str]:
    """The inputs whose first axis counts tokens or assignments."""
    per_token = {"x", "x_sorted", "y_sorted", "order", "topk_ids", "topk_weights", "router_logits"}
    return per_token & node.inputs.keys()


def _array_of(output: _Output) -> Array:
    memory = ctypes.string_at(output.data, output.bytes)
    shape = output.dims[: output.rank]
    return np.frombuffer(memory, DTYPES[output.type]).reshape(shape).copy()


def _value_of(field: _Field) -> tuple[str, AttributeValue]:
    name = field.name.decode()
    if field.type == _FIELD_CHAR:
        text = ctypes.string_at(field.data, field.length)
        assert text.endswith(b"\0")
        return name, text[:-1].decode()
    kind = c_int32 if field.type == _FIELD_INT32 else ctypes.c_float
    return name, kind.from_address(field.data).value


def require_driver() -> None:
    """Skip the test unless there is a CUDA driver, or a library that stands for one."""
    stand_in = os.environ.get("MOE_EXPORT_CUDA_DRIVER", "libcuda.so.1")
    try:
        # A library that is loaded is found by its own name, so this one becomes libcuda.so.1.
        ctypes.CDLL(stand_in, mode=os.RTLD_NOW | os.RTLD_GLOBAL)
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        pytest.skip(f"no CUDA driver, and MOE_EXPORT_CUDA_DRIVER names none ({error})")


def require(paths: Iterable[Path]) -> None:
    """Skip the test unless the files were built."""
    for path in paths:
        if not path.exists():
            pytest.skip(f"{path.relative_to(ROOT)} is not built (tools/gpu/plugin.sh builds it)")
