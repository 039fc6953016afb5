"""Transformers' ONNX exporter, its parts on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
from model_exported import Inputs
from model_job import Job, Measured, NotRunError, measure


def prepare(job: Job) -> None:
    if job.precision != "f32":
        raise NotRunError("ONNX Runtime's CPU provider multiplies float32 matrices alone here")
    import torch
    from model_exporter import export
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    exporter: Any = OnnxExporter
    export(job, exporter(), OnnxConfig(dynamic=True, **job.options), torch.float32)


class TransformersOnnx:
    """The exporter's parts; the cache of answers goes in and out of the decoder."""

    def __init__(self, job: Job) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        # Without it each run splits the stacked weights of all experts anew, or loading does.
        options.add_session_config_entry(
            "optimization.constant_folding_max_output_size_in_bytes", "0"
        )
        self._sessions: dict[str, Any] = {
            name: onnxruntime.InferenceSession(
                job.made / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
            )
            for name in ("vision/model", "text/language_model", "text/lm_head", "text/decode")
        }
        self._inputs = Inputs(job)

    def answer(self, count: int) -> Iterator[int]:
        features, *deep = self._look()
        made = self._run("text/language_model", self._inputs.prompt(features, deep))
        head = self._run("text/lm_head", {"input": made["last_hidden_state"][:, -1:]})
        logits = head["output"]
        for number in range(count):
            token = int(logits[0, -1].argmax())
            yield token
            if number + 1 == count:
                return
            cache = {
                f"input.cache{name.partition('cache')[2]}": value
                for name, value in made.items()
                if "cache" in name
            }
            made = self._run("text/decode", self._inputs.step(token, number) | cache)
            logits = made["logits"]

    def _look(self) -> list[Any]:
        made = self._run("vision/model", self._inputs.vision)
        deep = [value for name, value in made.items() if name.startswith("deepstack_features")]
        return [made["pooler_output"], *deep]

    def _run(self, part: str, given: dict[str, Any]) -> dict[str, Any]:
        session = self._sessions[part]
        names = [info.name for info in session.get_inputs()]
        outputs = [info.name for info in session.get_outputs()]
        feed = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(given[name])
            if isinstance(given[name], np.ndarray)
            else given[name]
            for name in names
        }
        made = session.run_with_ort_values(outputs, feed)
        return {
            name: value if "cache" in name else value.numpy()
            for name, value in zip(outputs, made, strict=True)
        }

    def see(self) -> object:
        return self._look()


def run(job: Job) -> Measured:
    return measure(job, TransformersOnnx)
