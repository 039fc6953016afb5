"""TensorRT's runtime, as far as an engine is run through it: ONNX Runtime computes in its place.

Addresses are the mock driver's, which are the host's.  ``STAND_IN_GRAPH`` names the graph that an
engine stands for, and with ``STAND_IN_SPOILS`` set every result is a little off.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
import onnxruntime

__version__ = "1.0 of the stand-in"

_NAMES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None:
        self.severity = severity


class _Registry:
    def load_library(self, path: str) -> None:
        ctypes.CDLL(path)


def get_plugin_registry() -> _Registry:
    return _Registry()


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return _Engine() if plan.startswith(b"vtrt") else None


class _Engine:
    def create_execution_context(self) -> _Context:
        return _Context()


class _Context:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(os.environ["STAND_IN_GRAPH"])
        self.dtypes = {i.name: _NAMES[i.type] for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profile = -1

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.profile = number
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        nothing = {n: np.zeros(self.shapes[n], dtype) for n, dtype in self.dtypes.items()}
        return tuple(self.session.run([name], nothing)[0].shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert self.profile >= 0
        given = {n: self._read(n, dtype) for n, dtype in self.dtypes.items()}
        for name, made in zip(self.outputs, self.session.run(self.outputs, given), strict=True):
            if "STAND_IN_SPOILS" in os.environ:
                made = made + np.float32(1e-2)
            dense = np.ascontiguousarray(made)
            ctypes.memmove(self.addresses[name], dense.ctypes.data, dense.nbytes)
        return True

    def _read(self, name: str, dtype: Any) -> np.ndarray:
        made = np.empty(self.shapes[name], dtype)
        ctypes.memmove(made.ctypes.data, self.addresses[name], made.nbytes)
        return made
