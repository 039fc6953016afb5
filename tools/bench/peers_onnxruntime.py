"""ONNX Runtime's own ``com.microsoft.MoE`` and ``QMoE``.

They route themselves, from logits that make them choose what the problem says.  Gates and values
are interleaved, the one layout of a gate that their CPU kernels have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from layer_engines import (
    Bound,
    Job,
    LeftOutError,
    Parts,
    graph,
    interleaved,
    outputs,
    plain,
    session,
    write_stacked,
)
from layer_problem import BLOCK, Array, Step, expert_weights, router_logits

_ATTRIBUTES = {
    "activation_type": "swiglu",
    "activation_alpha": 1.0,
    "activation_beta": 0.0,
    "swiglu_fusion": 1,
    "normalize_routing_weights": 1,
}


class OnnxRuntimeMoE:
    """``MoE`` in f32, ``QMoE`` in int8 (a scale per row) and int4 (blocks of 32) at level 4."""

    int8_block = 0

    def __init__(self, job: Job) -> None:
        if job.precision == "bf16":
            raise LeftOutError("the CPU kernel of com.microsoft.MoE has no bfloat16")
        self._job = job
        self._block = {"int4": BLOCK, "int8": self.int8_block}.get(job.precision, 0)
        block = f"-{self._block}" if self._block else ""
        path = job.cache / f"onnxruntime-{job.layer.name}-{job.precision}{block}-{job.copies}.bin"
        blob = write_stacked(path, job, self._parts)
        self.bytes_per_expert = sum(part.nbytes for _, part in self._parts(0, 0).values())
        rows: list[int | str] = ["T", job.layer.hidden]
        logits: list[int | str] = ["T", job.layer.experts]
        inputs = [(f"x{copy}", onnx.TensorProto.FLOAT, rows) for copy in range(job.copies)]
        inputs += [(f"logits{copy}", onnx.TensorProto.FLOAT, logits) for copy in range(job.copies)]
        nodes = [self._node(copy) for copy in range(job.copies)]
        domains = [("", 21), ("com.microsoft", 1)]
        self._session = session(graph(job, nodes, inputs, blob, domains), job.threads)

    def _node(self, copy: int) -> onnx.NodeProto:
        data = [f"x{copy}", f"logits{copy}"]
        attributes: dict[str, Any] = {"k": self._job.layer.top_k, **_ATTRIBUTES}
        if self._job.precision == "f32":
            names = [*data, f"up{copy}", "", f"down{copy}"]
            op = "MoE"
        else:
            up = [f"up{copy}", f"up_scales{copy}", ""]
            names = [*data, *up, f"down{copy}", f"down_scales{copy}"]
            op = "QMoE"
            bits = {"int8": 8, "int4": 4}[self._job.precision]
            attributes |= {"expert_weight_bits": bits, "weights_prepacked": 0, "accuracy_level": 4}
        if self._block:
            attributes["block_size"] = self._block
        return onnx.helper.make_node(op, names, [f"y{copy}"], domain="com.microsoft", **attributes)

    def _parts(self, copy: int, expert: int) -> Parts:
        gate_up, down = expert_weights(self._job.layer, copy, expert)
        matrices = {"up": interleaved(gate_up), "down": down}
        if self._job.precision == "f32":
            return {name: (onnx.TensorProto.FLOAT, matrix) for name, matrix in matrices.items()}
        parts: Parts = {}
        for name, matrix in matrices.items():
            values, scales = _quantized(matrix, self._job.precision, self._block)
            parts[name] = (onnx.TensorProto.UINT8, _packed(values, self._job.precision))
            scales = scales if self._block else scales[:, 0]
            parts[f"{name}_scales"] = (onnx.TensorProto.FLOAT, scales)
        return parts

    def prepare(self, step: Step) -> Bound:
        feed = {f"x{copy}": x for copy, x in enumerate(step.x)}
        for copy, (ids, weights) in enumerate(zip(step.topk_ids, step.topk_weights, strict=True)):
            feed[f"logits{copy}"] = router_logits(self._job.layer, ids, weights)
        return Bound(self._session, feed, outputs(step))

    def run(self, bound: Bound) -> Bound:
        self._session.run_with_iobinding(bound.binding)
        return bound

    def first(self, bound: Bound) -> Array:
        return bound.outputs["y0"].astype(np.float64)

    def matrices(self, expert: int) -> tuple[Array, Array]:
        gate_up, down = plain(self._job)(expert)
        if self._job.precision == "f32":
            return gate_up, down
        facts = (self._job.precision, self._block)
        return _stored(gate_up, *facts), _stored(down, *facts)


class OnnxRuntimeBlocks(OnnxRuntimeMoE):
    """``QMoE`` in int8 with blocks of 32, for which it rounds the tokens to int8 too."""

    int8_block = BLOCK

    def __init__(self, job: Job) -> None:
        if job.precision != "int8":
            raise LeftOutError("a variant of int8 alone")
        super().__init__(job)


def _quantized(matrix: Array, precision: str, block: int) -> tuple[Array, Array]:
    """Symmetric values as uint8 ``[N, K]`` and scales ``[N, blocks]``, as its own tools make them.

    The number of a block that is largest in size becomes -8 or -128 (``quantize_matmul_4bits``).
    """
    half = {"int8": 128, "int4": 8}[precision]
    blocks = matrix.reshape(len(matrix), -1, block or matrix.shape[1])
    largest = np.abs(blocks).argmax(axis=2, keepdims=True)
    scales = np.take_along_axis(blocks, largest, axis=2) / np.float32(-half)
    values = np.clip(np.rint(blocks / scales) + half, 0, 2 * half - 1).astype(np.uint8)
    return values.reshape(matrix.shape), scales[..., 0]


def _packed(values: Array, precision: str) -> Array:
    if precision == "int8":
        return values
    packed: Array = values[:, ::2] | values[:, 1::2] << 4
    return packed


def _stored(matrix: Array, precision: str, block: int) -> Array:
    values, scales = _quantized(matrix, precision, block)
    half = {"int8": 128, "int4": 8}[precision]
    blocks = values.reshape(*scales.shape, -1).astype(np.float64) - half
    numbers: Array = (blocks * scales[..., None]).reshape(matrix.shape)
    return numbers
