"""What the parts of Transformers' exporters are given for a prompt; NumPy alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from model_job import Job

EMBEDDINGS = "embeddings.npy"
VISION = "vision.npz"
FACTS = "facts.json"


class Inputs:
    """What the parts of a model are given for the job's prompt."""

    def __init__(self, job: Job) -> None:
        prompt = job.prompt()
        facts = json.loads((job.made / FACTS).read_text())
        self._table = np.load(job.made / EMBEDDINGS, mmap_mode="r")
        self._ids = prompt["input_ids"]
        self._seen = self._ids == facts["image_token_id"]
        plain = np.arange(self._ids.shape[1])[None, None]
        self._positions = np.concatenate([plain, prompt["position_ids"]]).astype(np.int64)
        with np.load(job.made / VISION) as arrays:
            self.vision = dict(arrays)

    def prompt(self, features: Any, deep: list[Any]) -> dict[str, Any]:
        """Embedded text with ``features [N, H]`` in their places."""
        embedded = np.array(self._table[self._ids[0]])[None]
        embedded[self._seen] = features
        given = {
            "inputs_embeds": embedded,
            "position_ids": self._positions,
            "visual_pos_masks": self._seen,
        }
        return given | {f"deepstack_visual_embeds.{place}": each for place, each in enumerate(deep)}

    def step(self, token: int, number: int) -> dict[str, Any]:
        """Of the ``number``-th token behind the prompt, the first being 0."""
        position = np.empty((4, 1, 1), np.int64)
        position[0] = self._ids.shape[1] + number
        position[1:] = self._positions[1:].max() + 1 + number
        return {
            "input_ids": np.array([[token]], np.int64),
            "position_ids": position,
            "mm_token_type_ids": np.zeros((1, 1), np.int32),
        }
