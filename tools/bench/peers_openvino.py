"""OpenVINO, on the graph that Transformers' OpenVINO exporter makes of an experts block.

Every expert multiplies every token and most results are weighted by zero, as the exporter writes
it; the CPU plugin recognises that and computes the chosen experts alone (``GatherMatmul``), which
is checked.  Compressed weights are constants behind ``Convert`` and ``Multiply``, as NNCF's
``compress_weights`` leaves them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset14 as ops
from layer_engines import Job, LeftOutError, plain
from layer_problem import BLOCK, Array, Step, expert_weights
from openvino.op import Constant
from openvino.utils.node_factory import NodeFactory

Stacks = dict[str, tuple[Array, Array | None]]


class OpenVino:
    """f32; bf16, int8 (a scale per row) and int4 (blocks of 32) as compressed weights."""

    def __init__(self, job: Job) -> None:
        self._job = job
        parameters, results = [], []
        for copy in range(job.copies):
            given = _parameters(job)
            parameters += given
            results.append(self._layer(given, _stacks(job, copy)))
        model = ov.Model(results, parameters)
        compiled = _compiled(model, job)
        self._request = compiled.create_infer_request()
        bits = _stored_bits(compiled)
        self.bytes_per_expert = job.layer.parameters * bits / 8 + self._scale_bytes()

    def _scale_bytes(self) -> float:
        layer = self._job.layer
        if self._job.precision == "int4":
            return layer.parameters / BLOCK * 2
        return 2 * (2 * layer.intermediate + layer.hidden) if self._job.precision == "int8" else 0

    def _layer(self, given: list[Any], stacks: Stacks) -> Any:
        layer = self._job.layer
        x, ids, weights = given
        experts = layer.experts
        tiled = ops.tile(x, np.array([experts, 1], np.int64))
        rows = ops.reshape(tiled, np.array([experts, -1, layer.hidden], np.int64), False)
        gate, value = (_product(rows, *stacks[name]) for name in ("gate", "value"))
        rows = _product(ops.multiply(_silu(gate), value), *stacks["down"])
        shape = np.array([experts, -1, layer.hidden], np.int64)
        return ops.reduce_sum(
            ops.multiply(ops.reshape(rows, shape, False), _dense(ids, weights, experts)),
            np.array([0], np.int64),
            False,
        )

    def prepare(self, step: Step) -> dict[int, Any]:
        feed = {}
        rows = zip(step.x, step.topk_ids, step.topk_weights, strict=True)
        for copy, (x, ids, weights) in enumerate(rows):
            feed[3 * copy] = ov.Tensor(x)
            feed[3 * copy + 1] = ov.Tensor(ids.astype(np.int64))
            feed[3 * copy + 2] = ov.Tensor(weights)
        return feed

    def run(self, feed: dict[int, Any]) -> Any:
        for index, tensor in feed.items():
            self._request.set_input_tensor(index, tensor)
        self._request.infer()
        return self._request

    def first(self, request: Any) -> Array:
        result: Array = request.get_output_tensor(0).data.astype(np.float64)
        return result

    def matrices(self, expert: int) -> tuple[Array, Array]:
        gate_up, down = plain(self._job)(expert)
        return tuple(_numbers(*_stored(matrix, self._job.precision)) for matrix in (gate_up, down))


def _stored_bits(compiled: Any) -> int:
    """Of a weight as the plugin keeps it: where a CPU has no bfloat16, it widens them once."""
    for op in compiled.get_runtime_model().get_ops():
        if op.get_rt_info()["layerType"].astype(str) == "GatherMatmul":
            kind = op.inputs()[1].get_element_type()
            return int(kind.bitwidth)
    raise LeftOutError("OpenVINO did not recognise the block")


def _parameters(job: Job) -> list[Any]:
    hidden, top_k = job.layer.hidden, job.layer.top_k
    return [
        ops.parameter([-1, hidden], ov.Type.f32),
        ops.parameter([-1, top_k], ov.Type.i64),
        ops.parameter([-1, top_k], ov.Type.f32),
    ]


def _silu(x: Any) -> Any:
    # opset14.swish() adds a constant of 1, with which the plugin does not recognise the block.
    return NodeFactory("opset14").create("Swish", [x.output(0)])


def _dense(ids: Any, weights: Any, experts: int) -> Any:
    """Weights of all experts, ``[E, T, 1]``, zero for those that a token did not choose.

    The slice takes all; without it the plugin does not recognise the block.
    """
    tokens = ops.gather(ops.shape_of(ids), np.array([0], np.int64), np.int64(0))
    shape = ops.concat([tokens, np.array([experts], np.int64)], 0)
    zeros = ops.broadcast(np.float32(0), shape)
    places = ops.convert(ids, "i32")
    start, step = np.array([0, 0], np.int32), np.array([1, 1], np.int32)
    axes = np.array([0, 1], np.int64)
    whole = ops.slice(weights, start, ops.shape_of(places, "i32"), step, axes)
    dense = ops.scatter_elements_update(zeros, places, whole, np.int64(1))
    return ops.unsqueeze(ops.transpose(dense, np.array([1, 0], np.int64)), np.int64(2))


def _product(rows: Any, values: Array, scales: Array | None) -> Any:
    if scales is None and values.dtype == np.float32:
        return ops.matmul(rows, ops.constant(values, shared_memory=True), False, True)
    if scales is None:
        weight = _constant(values.view(np.uint16), values.shape, ov.Type.bf16)
        return ops.matmul(rows, ops.convert(weight, "f32"), False, True)
    experts, count, _, *block = values.shape
    columns = values.shape[2] * (block[0] if block else 1)
    kind = ov.Type.i4 if block else ov.Type.i8
    half = ops.convert(_integers(values, kind), "f16")
    scaled = ops.multiply(half, ops.constant(scales.astype(np.float16)))
    if block:
        scaled = ops.reshape(scaled, np.array([experts, count, columns], np.int64), False)
    return ops.matmul(rows, ops.convert(scaled, "f32"), False, True)


def _constant(memory: Array, shape: tuple[int, ...], kind: Any) -> Any:
    """``memory`` as it lies, read as numbers of ``kind``."""
    return Constant(ov.Tensor(memory, ov.Shape(shape), kind), shared_memory=False)


def _integers(values: Array, kind: Any) -> Any:
    if kind == ov.Type.i8:
        return ops.constant(values)
    packed = (values[..., ::2] & 15 | (values[..., 1::2] & 15) << 4).astype(np.uint8)
    return _constant(packed, values.shape, kind)


def _stored(matrix: Array, precision: str) -> tuple[Array, Array | None]:
    """Symmetric values and float16 scales; int4 as ``[N, blocks, 32]``."""
    if precision == "f32":
        return matrix, None
    if precision == "bf16":
        import ml_dtypes

        return matrix.astype(ml_dtypes.bfloat16), None
    blocks = matrix if precision == "int8" else matrix.reshape(len(matrix), -1, BLOCK)
    steps = 127 if precision == "int8" else 7
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    scales = (largest / np.float32(steps)).astype(np.float16)
    values = np.rint(blocks / scales.astype(np.float32)).clip(-steps - 1, steps)
    return values.astype(np.int8), scales


def _numbers(values: Array, scales: Array | None) -> Array:
    numbers = values.astype(np.float64)
    if scales is not None:
        numbers = numbers * scales.astype(np.float64)
    flat: Array = numbers.reshape(len(values), -1)
    return flat


def _stacks(job: Job, copy: int) -> Stacks:
    stacks: dict[str, list[Array]] = {}
    for expert in range(job.layer.experts):
        gate_up, down = expert_weights(job.layer, copy, expert)
        gate, value = np.split(gate_up, 2)
        for name, matrix in (("gate", gate), ("value", value), ("down", down)):
            values, scales = _stored(matrix, job.precision)
            if name not in stacks:
                parts = [values] if scales is None else [values, scales]
                stacks[name] = [np.empty((job.layer.experts, *p.shape), p.dtype) for p in parts]
            stacks[name][0][expert] = values
            if scales is not None:
                stacks[name][1][expert] = scales
    return {name: (made[0], made[1] if len(made) == 2 else None) for name, made in stacks.items()}


def _compiled(model: Any, job: Job) -> Any:
    options = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if job.precision == "bf16" else "f32",
    }
    compiled = ov.Core().compile_model(model, "CPU", options)
    nodes = compiled.get_runtime_model().get_ops()
    kinds = {node.get_rt_info()["layerType"].astype(str) for node in nodes}
    if "GatherMatmul" not in kinds:
        raise LeftOutError(f"OpenVINO knew no experts in it and runs {', '.join(sorted(kinds))}")
    return compiled
