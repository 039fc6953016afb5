"""Transformers' OpenVINO exporter, its parts on OpenVINO; int8 and int4 weights are NNCF's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from model_exported import Inputs
from model_job import Job, Measured, measure

_PARTS = {
    "vision": "vision/openvino_model",
    "prompt": "text/openvino_language_model",
    "head": "text/openvino_lm_head",
    "decode": "text/openvino_decode",
}


def prepare(job: Job) -> None:
    import torch
    from model_exporter import export
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    # Weights that are rounded to integers come from bfloat16, which is what the directory holds.
    dtype = torch.float32 if job.precision == "f32" else torch.bfloat16
    exporter: Any = OpenVINOExporter
    export(job, exporter(), OpenVINOConfig(dynamic=True), dtype)
    if job.precision in ("int8", "int4"):
        for part in _PARTS.values():
            _compress(job.made / f"{part}.xml", job.precision)


def _compress(path: Path, precision: str) -> None:
    """Weights as NNCF stores them by default: int8 a scale per row, int4 in groups of 32."""
    import nncf

    modes = nncf.CompressWeightsMode
    how = {"mode": modes.INT8_SYM}
    if precision == "int4" and "vision" not in path.parts:
        how = {"mode": modes.INT4_SYM, "group_size": 32, "ratio": 1.0, "all_layers": True}
    model = nncf.compress_weights(openvino.Core().read_model(path), **how)
    small = path.parent / "small"
    small.mkdir(exist_ok=True)
    openvino.save_model(model, small / path.name, compress_to_fp16=False)
    del model
    for file in small.iterdir():
        file.replace(path.parent / file.name)
    shutil.rmtree(small)


class OpenVino:
    """The exporter's parts; the cache of answers is the decoder's state."""

    def __init__(self, job: Job) -> None:
        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": job.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if job.precision == "bf16" else "f32",
        }
        self._requests: dict[str, Any] = {
            name: core.compile_model(
                job.made / f"{part}.xml", "CPU", options
            ).create_infer_request()
            for name, part in _PARTS.items()
        }
        self._inputs = Inputs(job)

    def answer(self, count: int) -> Iterator[int]:
        features, *deep = self._look()
        made = self._run("prompt", self._inputs.prompt(features, deep))
        self._remember(made)
        logits = self._run("head", {"input": made["last_hidden_state"][:, -1:]})["output"]
        for number in range(count):
            token = int(logits[0, -1].argmax())
            yield token
            if number + 1 == count:
                return
            logits = self._run("decode", self._inputs.step(token, number))["logits"]

    def _remember(self, made: dict[str, Any]) -> None:
        """The prompt's keys and values become the state of the decoder."""
        decoder = self._requests["decode"]
        decoder.reset_state()
        for state in decoder.query_state():
            name = next(name for name in made if "cache" in name and name in state.name)
            state.state = openvino.Tensor(np.ascontiguousarray(made[name]))

    def _look(self) -> list[Any]:
        made = self._run("vision", self._inputs.vision)
        deep = [value for name, value in made.items() if name.startswith("deepstack_features")]
        return [made["pooler_output"], *deep]

    def _run(self, part: str, given: dict[str, Any]) -> dict[str, Any]:
        request = self._requests[part]
        extra = {"beam_idx": np.zeros(1, np.int32), "output_router_logits": np.array(0, np.bool_)}
        inputs = request.model_inputs
        feed = {port: (given | extra)[port.any_name] for port in inputs}
        made = request.infer(feed, share_inputs=True, share_outputs=False)
        return {port.any_name: made[port] for port in request.model_outputs}

    def see(self) -> object:
        return self._look()


def run(job: Job) -> Measured:
    return measure(job, OpenVino)
