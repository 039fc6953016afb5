"""The host harness of ``plugins/tests/onnxruntime``: a custom op's life without ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import AttributeValue
from moe_export.moe.schema import OPS

from .plugin_harness import BUILD, HarnessError
from .plugin_nodes import PluginNode, packed

Array = npt.NDArray[Any]

HOST_LIBRARY = BUILD / "tests" / "onnxruntime" / "libmoe_export_ort_cuda_host.so"
CPU_PROVIDER_LIBRARY = BUILD / "tests" / "onnxruntime" / "libmoe_export_ort_cuda_cpu.so"
GPU_LIBRARY = BUILD / "onnxruntime" / "libmoe_export_ort_cuda.so"
HARNESS = BUILD / "tests" / "onnxruntime" / "libort_harness.so"

NEWEST = 18
"""The version of ONNX Runtime's interface that the GPU kernels need."""

# ONNX's numbers of types.
TYPES = {
    np.dtype(np.float32): 1,
    np.dtype(np.uint8): 2,
    np.dtype(np.int8): 3,
    np.dtype(np.int32): 6,
    np.dtype(np.int64): 7,
    np.dtype(np.float16): 10,
    np.dtype(ml_dtypes.bfloat16): 16,
    np.dtype(ml_dtypes.int4): 22,
}
DTYPES = {number: dtype for dtype, number in TYPES.items()}
_WORDS = 4096


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("type", c_int32),
        ("integer", c_int64),
        ("number", c_float),
        ("text", c_char_p),
    )


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("type", c_int32),
        ("rank", c_int32),
        ("dims", c_int64 * 8),
        ("data", c_void_p),
        ("bytes", c_size_t),
    )


class _Node(ctypes.Structure):
    _fields_ = (
        ("op", c_char_p),
        ("name", c_char_p),
        ("attributes", POINTER(_Attribute)),
        ("inputs", POINTER(_Tensor)),
        ("attribute_count", c_int32),
        ("input_count", c_int32),
        ("runs", c_int32),
    )


class OrtHarness:
    """One library of custom ops, registered.  Its kernels read ``host`` or ``driver`` memory."""

    def __init__(self, library: Path, memory: str = "host", *, newest: int = NEWEST) -> None:
        self._memory = memory.encode()
        self._api = ctypes.CDLL(str(HARNESS), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        self._api.ort_open.restype = c_void_p
        words = ctypes.create_string_buffer(_WORDS)
        path = str(library).encode()
        self._library = self._api.ort_open(path, c_uint32(newest), words, c_size_t(_WORDS))
        if not self._library:
            raise HarnessError(words.value.decode())

    def run(self, node: PluginNode, *, name: str = "layers.0", runs: int = 2) -> list[Array]:
        """What the node's kernel makes, the same in each of ``runs`` runs.

        Raises ``HarnessError`` with the kernel's words, or where it wrote beyond an end, to an
        input, or left something that it was lent.
        """
        kept: list[Any] = []
        attributes = [_attribute(*item) for item in node.attributes.items()]
        inputs = [_tensor(node.inputs.get(port.name), kept) for port in _trimmed_ports(node)]
        asked = _Node(
            node.op.encode(),
            name.encode(),
            (_Attribute * len(attributes))(*attributes),
            (_Tensor * len(inputs))(*inputs),
            len(attributes),
            len(inputs),
            runs,
        )
        outputs, count = (_Tensor * 2)(), c_int32()
        words = ctypes.create_string_buffer(_WORDS)
        worked = self._api.ort_run(
            c_void_p(self._library),
            ctypes.byref(asked),
            self._memory,
            outputs,
            ctypes.byref(count),
            words,
            c_size_t(_WORDS),
        )
        if not worked:
            raise HarnessError(words.value.decode())
        try:
            return [_array(output) for output in outputs[: count.value]]
        finally:
            for output in outputs[: count.value]:
                self._api.ort_free(c_void_p(output.data))


def _trimmed_ports(node: PluginNode) -> list[Any]:
    """The schema's inputs up to the last that is present: ONNX leaves out only what follows it."""
    ports = list(OPS[node.op].inputs)
    while ports and ports[-1].name not in node.inputs:
        ports.pop()
    return ports


def _attribute(name: str, value: AttributeValue) -> _Attribute:
    if isinstance(value, str):
        return _Attribute(name.encode(), 2, 0, 0.0, value.encode())
    if isinstance(value, int):
        return _Attribute(name.encode(), 0, value, 0.0, None)
    return _Attribute(name.encode(), 1, 0, value, None)


def _tensor(array: Array | None, kept: list[Any]) -> _Tensor:
    if array is None:
        return _Tensor()
    memory = packed(array)
    kept.append(memory)
    dims = (c_int64 * 8)(*array.shape)
    return _Tensor(TYPES[array.dtype], array.ndim, dims, memory.ctypes.data, memory.nbytes)


def _array(output: _Tensor) -> Array:
    memory = ctypes.string_at(output.data, output.bytes)
    shape = output.dims[: output.rank]
    return np.frombuffer(memory, DTYPES[output.type]).reshape(shape).copy()
