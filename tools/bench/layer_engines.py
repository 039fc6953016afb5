"""What every engine promises, and the ONNX files that those on ONNX Runtime read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from layer_problem import Array, Layer, Step, expert_weights


@dataclass(frozen=True)
class Job:
    """One layer in one precision, ``copies`` of it, for calls of ``tokens`` tokens."""

    layer: Layer
    precision: str
    copies: int
    tokens: int
    threads: int
    cache: Path
    """Where weights that were made once are kept."""


class Engine(Protocol):
    """A layer, loaded and ready."""

    bytes_per_expert: float
    """As stored, with scales."""

    def prepare(self, step: Step) -> Any:
        """``step`` in the engine's own arrays; not timed."""

    def run(self, prepared: Any) -> Any:
        """All copies of the layer; timed."""

    def first(self, result: Any) -> Array:
        """What ``run`` returned for the first copy, in float64."""

    def matrices(self, expert: int) -> tuple[Array, Array]:
        """The numbers that the first copy's stored weights stand for."""


class LeftOutError(Exception):
    """Why an engine cannot do a job."""


@dataclass
class Blob:
    """Arrays one after the other in a file, as ONNX external data."""

    path: Path
    entries: list[tuple[str, int, tuple[int, ...], int, int]] = field(default_factory=list)
    """Name, ONNX type, shape, bytes and offset of each array."""

    def tensors(self) -> Iterator[onnx.TensorProto]:
        for name, onnx_type, shape, length, offset in self.entries:
            tensor = onnx.TensorProto(name=name, data_type=onnx_type, dims=shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            where = {"location": self.path.name, "offset": str(offset), "length": str(length)}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=value)
            yield tensor


PAGE = 4096
Parts = dict[str, tuple[int, Array]]
"""By name: the ONNX type, and one expert's part of the array."""


def write_stacked(
    path: Path, job: Job, parts: Callable[[int, int], Parts], suffix: Callable[[int], str] = str
) -> Blob:
    """Stack each expert's ``parts(copy, expert)`` in a file, an array for each name and copy.

    What lies there already is taken to be the same.
    """
    blob = Blob(path)
    first = parts(0, 0)
    offset = 0
    for copy in range(job.copies):
        for name, (kind, part) in first.items():
            length = part.nbytes * job.layer.experts
            shape = (job.layer.experts, *part.shape)
            blob.entries.append((name + suffix(copy), kind, shape, length, offset))
            offset += -(-length // PAGE) * PAGE
    if path.exists() and path.stat().st_size == offset:
        return blob
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.truncate(offset)
        for copy in range(job.copies):
            places = blob.entries[copy * len(first) : (copy + 1) * len(first)]
            for expert in range(job.layer.experts):
                made = parts(copy, expert)
                for (_, _, _, _, start), (_, part) in zip(places, made.values(), strict=True):
                    file.seek(start + expert * part.nbytes)
                    file.write(np.ascontiguousarray(part).tobytes())
    partial.rename(path)
    return blob


def interleaved(gate_up: Array) -> Array:
    """Gates and values in turn."""
    gate, value = np.split(gate_up, 2)
    return np.stack([gate, value], axis=1).reshape(gate_up.shape)


def plain(job: Job) -> Callable[[int], tuple[Array, Array]]:
    """The first copy's float32 weights."""
    return lambda expert: expert_weights(job.layer, 0, expert)


def graph(
    job: Job,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    blob: Blob,
    domains: Sequence[tuple[str, int]],
    mark: str = "",
) -> Path:
    """The file of a graph with outputs ``y0``, ``y1``, …, beside its weights.

    ``mark`` keeps apart graphs that share them.
    """
    made = onnx.helper.make_graph(
        list(nodes),
        "layers",
        [onnx.helper.make_tensor_value_info(*given) for given in inputs],
        [
            onnx.helper.make_tensor_value_info(
                f"y{copy}", onnx.TensorProto.FLOAT, ["T", job.layer.hidden]
            )
            for copy in range(job.copies)
        ],
        initializer=list(blob.tensors()),
    )
    model = onnx.helper.make_model(
        made,
        opset_imports=[onnx.helper.make_opsetid(name, version) for name, version in domains],
        ir_version=10,
    )
    path = blob.path.with_suffix(f".{mark}.onnx" if mark else ".onnx")
    path.write_bytes(model.SerializeToString())
    return path


def session(path: Path, threads: int, library: str | None = None, **entries: str) -> Any:
    """An ONNX Runtime session; ``entries`` are further configuration, ``_`` for ``.``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(library)
    for key, value in entries.items():
        options.add_session_config_entry(key.replace("__", "."), value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Bound:
    """Inputs and outputs of a session, bound once so that a run copies and checks nothing."""

    def __init__(self, session: Any, feed: dict[str, Array], outputs: dict[str, Array]) -> None:
        import onnxruntime

        self.binding = session.io_binding()
        self.outputs = outputs
        self._kept = []
        for name, array in feed.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            self._kept.append(value)
            self.binding.bind_ortvalue_input(name, value)
        for name, array in outputs.items():
            self.binding.bind_output(
                name, "cpu", 0, array.dtype, list(array.shape), array.ctypes.data
            )


def outputs(step: Step) -> dict[str, Array]:
    """Room for what a session returns."""
    return {f"y{copy}": np.empty_like(x) for copy, x in enumerate(step.x)}
