"""The native kernels for ONNX Runtime as runtimes: on every level of CPU, and from packed weights.

A level that this machine lacks, or a library that was not built, skips the test with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from moe_export.errors import MissingEnvironmentError
from moe_export.moe import packing
from moe_export.runtime import kernels
from moe_export.runtime.kernels import LEVELS
from problems import Problem

from .graphs import is_fed, node_model, options

__all__ = ["LEVELS", "in_panels", "on_level", "packed"]

Array = npt.NDArray[Any]
Outputs = tuple[Array, ...]

# The matrices of each op, with the inputs of their scales and zeros.
_MATRICES = {
    "Experts": {"up": ("up_scales", "up_zeros"), "down": ("down_scales", "down_zeros")},
    "GroupedMatMul": {"weights": ("scales", "zeros")},
    "Linear": {"weight": ("scales", "zeros")},
}


def on_level(level: str) -> Callable[[Problem], Outputs]:
    """Weights in rows, on one level of CPU."""

    def run(problem: Problem) -> Outputs:
        return _run(level, problem.op, problem.attributes, problem.inputs)

    return run


def in_panels(problem: Problem) -> Outputs:
    """Weights in panels, on the best level of this machine."""
    return _run("", problem.op, *packed(problem))


def packed(problem: Problem) -> tuple[dict[str, Any], dict[str, Array]]:
    """The attributes and inputs of the problem with its matrices in panels."""
    attributes, inputs = dict(problem.attributes), dict(problem.inputs)
    for name, parts in _MATRICES.get(problem.op, {}).items():
        attributes["weight_layout"] = "panels"
        if name not in inputs:
            continue
        scales, zeros = (inputs.pop(part, None) for part in parts)
        values = inputs[name]
        if problem.op == "Linear":
            values, scales, zeros = (
                None if a is None else a[np.newaxis] for a in (values, scales, zeros)
            )
        inputs[name] = packing.pack(
            values,
            scales=scales,
            zeros=zeros,
            block_size=int(attributes.get("block_size", 0)),
            gated=name == "up" and bool(attributes["gated"]),
            interleaved=name == "up" and attributes["gate_layout"] == "interleaved",
        )
    return attributes, inputs


def _run(
    level: str, op: str, attributes: Mapping[str, Any], inputs: Mapping[str, Array]
) -> Outputs:
    fed = {name: array for name, array in inputs.items() if is_fed(array)}
    shapes = tuple((name, array.ndim) for name, array in inputs.items())
    key = (level, op, tuple(attributes.items()), shapes)
    session = _SESSIONS.get(key) if fed.keys() == inputs.keys() else None
    if session is None:
        session = _session(level, op, attributes, inputs)
    if fed.keys() == inputs.keys():
        _SESSIONS[key] = session
    return tuple(session.run(None, fed))


def _session(
    level: str, op: str, attributes: Mapping[str, Any], inputs: Mapping[str, Array]
) -> ort.InferenceSession:
    """A session whose kernels are of the level; they ask for it when they are made."""
    try:
        available = kernels.levels()
    except MissingEnvironmentError as error:
        pytest.skip(f"no native kernels: {error}")
    if level and level not in available:
        pytest.skip(f"this machine has no {level}")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MOE_EXPORT_CPU", raising=False)
        if level:
            environment.setenv("MOE_EXPORT_CPU", level)
        with_kernels = options()
        kernels.register(with_kernels)
        assert not level or kernels.level() == level
        model = node_model(op, attributes, inputs).SerializeToString()
        return ort.InferenceSession(model, with_kernels, ["CPUExecutionProvider"])


_SESSIONS: dict[tuple[Any, ...], ort.InferenceSession] = {}
