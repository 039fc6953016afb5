"""PyTorch eager: Transformers' own model and its ``generate``."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from model_job import Job, Measured, NotRunError, measure
from transformers import Qwen3VLMoeForConditionalGeneration

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def prepare(job: Job) -> None:
    """Nothing to make: the directory is read as it is."""
    if job.precision not in _DTYPES:
        raise NotRunError(f"PyTorch has no {job.precision} experts on the CPU")


class _Heard:
    """A streamer: each token as it comes, in the order of ``generate``."""

    def __init__(self) -> None:
        self.tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._prompt_is_in = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_is_in:
            self.tokens.put(int(value.reshape(-1)[0]))
        self._prompt_is_in = True

    def end(self) -> None:
        self.tokens.put(None)


class TorchEager:
    """The model in memory, in the dtype that is asked for."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        kind: Any = Qwen3VLMoeForConditionalGeneration
        self._model = kind.from_pretrained(job.model, dtype=_DTYPES[job.precision]).eval()
        if "experts" in job.options:
            self._model.set_experts_implementation(job.options["experts"])
        given = job.prompt()
        ids = torch.from_numpy(given["input_ids"])
        self._vision = {
            "pixel_values": torch.from_numpy(given["pixel_values"]).to(_DTYPES[job.precision]),
            "image_grid_thw": torch.from_numpy(given["image_grid_thw"]),
        }
        self._prompt = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self._model.config.image_token_id).int(),
            **self._vision,
        }

    def answer(self, count: int) -> Iterator[int]:
        heard = _Heard()
        # In a thread of its own, so that the caller's clock sees each token when it is made.
        thread = threading.Thread(target=self._generate, args=(heard, count))
        thread.start()
        yield from iter(heard.tokens.get, None)
        thread.join()

    def _generate(self, heard: _Heard, count: int) -> None:
        with torch.inference_mode():
            self._model.generate(
                **self._prompt, max_new_tokens=count, do_sample=False, streamer=heard
            )

    def see(self) -> object:
        with torch.inference_mode():
            return self._model.get_image_features(**self._vision)


def run(job: Job) -> Measured:
    return measure(job, TorchEager)
