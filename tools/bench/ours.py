"""moe-export's own kernels, in a graph of ``Experts`` nodes on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from layer_engines import PAGE, Blob, Bound, Job, graph, outputs, session
from layer_problem import Array, Step, expert_weights, router_logits

from moe_export.moe import packing, quantize
from moe_export.runtime import kernels

_WEIGHTS = ("up", "down")


class MoeExport:
    """``Experts`` alone: the routing is given."""

    routes_itself = False

    def __init__(self, job: Job) -> None:
        self._job = job
        self._precision = quantize.parse_precision(job.precision)
        self._headers: dict[str, packing.Header] = {}
        blob = self._write()
        self.bytes_per_expert = sum(header.expert_bytes for header in self._headers.values())
        names = ("logits",) if self.routes_itself else ("ids", "weights")
        kinds = {"x": onnx.TensorProto.FLOAT, "logits": onnx.TensorProto.FLOAT}
        kinds |= {"ids": onnx.TensorProto.INT32, "weights": onnx.TensorProto.FLOAT}
        columns = {"x": job.layer.hidden, "logits": job.layer.experts}
        inputs = [
            (f"{name}{copy}", kinds[name], ["T", columns.get(name, job.layer.top_k)])
            for copy in range(job.copies)
            for name in ("x", *names)
        ]
        nodes = [node for copy in range(job.copies) for node in self._nodes(copy)]
        path = graph(job, nodes, inputs, blob, [("", 21), ("moe_export", 1)], type(self).__name__)
        self._session = session(path, job.threads, str(kernels.library_path()))

    def _nodes(self, copy: int) -> list[onnx.NodeProto]:
        names = [f"{name}{copy}" for name in ("x", "ids", "weights", *_WEIGHTS)]
        experts = onnx.helper.make_node(
            "Experts",
            names,
            [f"y{copy}"],
            domain="moe_export",
            activation="silu",
            gated=1,
            weight_format=self._precision.format,
            block_size=self._precision.block_size,
            row_format=self._precision.row_format,
            weight_layout="panels",
        )
        return [*self._router(copy), experts]

    def _router(self, copy: int) -> list[onnx.NodeProto]:
        if not self.routes_itself:
            return []
        router = onnx.helper.make_node(
            "Router",
            [f"logits{copy}"],
            [f"weights{copy}", f"ids{copy}"],
            domain="moe_export",
            top_k=self._job.layer.top_k,
            score="softmax",
            normalize=1,
        )
        return [router]

    def _write(self) -> Blob:
        """The panels of all experts, each packed by itself so that one is in memory at a time."""
        job = self._job
        path = job.cache / f"moe-export-{job.layer.name}-{job.precision}-{job.copies}.bin"
        blob = Blob(path)
        for name, one in self._packed(0, 0).items():
            facts = {**vars(packing.read_header(one)), "experts": job.layer.experts}
            self._headers[name] = packing.Header(**facts)
        offset = 0
        for copy in range(job.copies):
            for name, header in self._headers.items():
                size = header.total_bytes
                blob.entries.append(
                    (f"{name}{copy}", onnx.TensorProto.UINT8, (size,), size, offset)
                )
                offset += -(-size // PAGE) * PAGE
        if not path.exists() or path.stat().st_size != offset:
            self._fill(blob, offset)
        return blob

    def _fill(self, blob: Blob, size: int) -> None:
        partial = blob.path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.truncate(size)
            for copy in range(self._job.copies):
                places = blob.entries[2 * copy : 2 * copy + 2]
                for expert in range(self._job.layer.experts):
                    packed = self._packed(copy, expert)
                    for (_, _, _, _, start), (name, one) in zip(
                        places, packed.items(), strict=True
                    ):
                        header = self._headers[name]
                        head = header.encode()
                        file.seek(start)
                        file.write(head)
                        file.seek(start + len(head) + expert * header.expert_bytes)
                        file.write(one[len(head) :].tobytes())
        partial.rename(blob.path)

    def _packed(self, copy: int, expert: int) -> dict[str, Array]:
        """The panels of one expert's matrices, as blobs of one expert."""
        packed = {}
        for name, matrix in zip(
            _WEIGHTS, expert_weights(self._job.layer, copy, expert), strict=True
        ):
            made = quantize.quantize(matrix[None], self._precision)
            packed[name] = packing.pack(
                made.values,
                gated=name == "up",
                scales=made.scales,
                zeros=made.zeros,
                block_size=self._precision.block_size,
            )
        return packed

    def prepare(self, step: Step) -> Bound:
        feed: dict[str, Array] = {f"x{copy}": x for copy, x in enumerate(step.x)}
        for copy, (ids, weights) in enumerate(zip(step.topk_ids, step.topk_weights, strict=True)):
            if self.routes_itself:
                feed[f"logits{copy}"] = router_logits(self._job.layer, ids, weights)
            else:
                feed |= {f"ids{copy}": ids, f"weights{copy}": weights}
        return Bound(self._session, feed, outputs(step))

    def run(self, bound: Bound) -> Bound:
        self._session.run_with_iobinding(bound.binding)
        return bound

    def first(self, bound: Bound) -> Array:
        return bound.outputs["y0"].astype(np.float64)

    def matrices(self, expert: int) -> tuple[Array, Array]:
        packed = self._packed(0, expert)
        up, down = (_numbers(packed[name]) for name in _WEIGHTS)
        return up, down


class MoeExportRouted(MoeExport):
    """``Router`` and ``Experts``: the routing is computed from logits."""

    routes_itself = True


def _numbers(blob: Array) -> Array:
    """What panels of one expert stand for, in float64."""
    values, scales, zeros, header = packing.unpack(blob)
    numbers: Any = values[0].astype(np.float32).astype(np.float64)
    if scales is None:
        return numbers
    if zeros is not None:
        numbers -= np.repeat(zeros[0].astype(np.float64), header.block_size, 1)[:, : header.columns]
    size = header.block_size or header.columns
    return numbers * np.repeat(scales[0].astype(np.float64), size, 1)[:, : header.columns]


class RouterAlone:
    """``Router`` nodes alone, for its share of a layer."""

    nodes = 64

    def __init__(self, job: Job) -> None:
        self._job = job
        nodes, inputs, results = [], [], []
        for index in range(self.nodes):
            inputs.append(_info(f"logits{index}", onnx.TensorProto.FLOAT, job.layer.experts))
            results.append(_info(f"weights{index}", onnx.TensorProto.FLOAT, job.layer.top_k))
            results.append(_info(f"ids{index}", onnx.TensorProto.INT32, job.layer.top_k))
            nodes.append(
                onnx.helper.make_node(
                    "Router",
                    [f"logits{index}"],
                    [f"weights{index}", f"ids{index}"],
                    domain="moe_export",
                    top_k=job.layer.top_k,
                    score="softmax",
                    normalize=1,
                )
            )
        made = onnx.helper.make_graph(nodes, "routers", inputs, results)
        domains = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("moe_export", 1)]
        model = onnx.helper.make_model(made, opset_imports=domains, ir_version=10)
        path = job.cache / f"routers-{job.layer.name}.onnx"
        path.write_bytes(model.SerializeToString())
        self._session = session(path, job.threads, str(kernels.library_path()))

    def prepare(self, step: Step) -> Bound:
        logits = router_logits(self._job.layer, step.topk_ids[0], step.topk_weights[0])
        rows = len(logits)
        made: dict[str, Array] = {}
        for index in range(self.nodes):
            made[f"weights{index}"] = np.empty((rows, self._job.layer.top_k), np.float32)
            made[f"ids{index}"] = np.empty((rows, self._job.layer.top_k), np.int32)
        return Bound(self._session, {f"logits{i}": logits for i in range(self.nodes)}, made)

    def run(self, bound: Bound) -> None:
        self._session.run_with_iobinding(bound.binding)


def _info(name: str, kind: int, columns: int) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, ["T", columns])
