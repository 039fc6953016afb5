"""Transformers' ONNX export of a Qwen3-VL-MoE experts block, on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from layer_engines import Bound, Job, LeftOutError, outputs, plain, session
from layer_problem import Array, Step
from peers_torch import load
from transformers import PretrainedConfig, PreTrainedModel
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts


class _Config(PretrainedConfig):
    model_type = "layers_of_experts"

    def __init__(self, job: Job | None = None, **others: Any) -> None:
        super().__init__(**others)
        if job is not None:
            self.num_experts = job.layer.experts
            self.hidden_size = job.layer.hidden
            self.moe_intermediate_size = job.layer.intermediate
            self.hidden_act = "silu"
            self.copies = job.copies


class _Layers(PreTrainedModel):
    config_class = _Config

    def __init__(self, config: _Config) -> None:
        super().__init__(config)
        with torch.device("meta"):
            experts = [Qwen3VLMoeTextExperts(config) for _ in range(config.copies)]
        self.layers = torch.nn.ModuleList(experts)

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    def forward(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            f"y{copy}": experts(given[f"x{copy}"], given[f"ids{copy}"], given[f"weights{copy}"])
            for copy, experts in enumerate(self.layers)
        }


class TransformersOnnx:
    """f32.  Constants are not folded: by default ONNX Runtime copies 128 experts on each run."""

    def __init__(self, job: Job) -> None:
        if job.precision != "f32":
            raise LeftOutError("it is exported in float32; no CPU provider multiplies bfloat16")
        self._job = job
        path = job.cache / f"transformers-{job.layer.name}-{job.precision}-{job.copies}.onnx"
        if not path.exists():
            _export(job, path)
        folding = {"optimization__constant_folding_max_output_size_in_bytes": "0"}
        self._session = session(path, job.threads, **folding)
        self.bytes_per_expert = job.layer.parameters * 4

    def prepare(self, step: Step) -> Bound:
        feed = {}
        rows = zip(step.x, step.topk_ids, step.topk_weights, strict=True)
        for copy, (x, ids, weights) in enumerate(rows):
            feed |= {f"x{copy}": x, f"ids{copy}": ids.astype(np.int64), f"weights{copy}": weights}
        return Bound(self._session, feed, outputs(step))

    def run(self, bound: Bound) -> Bound:
        self._session.run_with_iobinding(bound.binding)
        return bound

    def first(self, bound: Bound) -> Array:
        return bound.outputs["y0"].astype(np.float64)

    def matrices(self, expert: int) -> tuple[Array, Array]:
        return plain(self._job)(expert)


def _export(job: Job, path: Path) -> None:
    model = _Layers(_Config(job)).eval()
    for layer, (gate_up, down) in zip(model.layers, load(job), strict=True):
        layer.gate_up_proj = torch.nn.Parameter(gate_up, requires_grad=False)
        layer.down_proj = torch.nn.Parameter(down, requires_grad=False)
    given = {}
    tokens = torch.export.Dim("tokens", min=1, max=1 << 20)
    for copy in range(job.copies):
        given |= {
            f"x{copy}": torch.randn(5, job.layer.hidden),
            f"ids{copy}": torch.arange(5 * job.layer.top_k).view(5, -1) % job.layer.experts,
            f"weights{copy}": torch.rand(5, job.layer.top_k),
        }
    shapes = {name: {0: tokens} for name in given}
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes)
    exporter = OnnxExporter()
    exporter.save_program(exporter.export(model, given, config=config).program, path)
