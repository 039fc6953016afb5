"""Transformers' own exporters: the parts they make of a model, written for a runtime without it.

``export_for_generation`` gives the language model that takes embedded text, the last product, and
the decoder of one token.  The vision tower it drops, so that one is exported by itself, and the
table of embeddings, which is in no part, is written beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_exported import EMBEDDINGS, FACTS, VISION
from model_job import Job
from transformers import Qwen3VLMoeForConditionalGeneration
from transformers.exporters.utils import precompute_export_inputs


def export(job: Job, exporter: Any, config: Any, dtype: torch.dtype) -> None:
    """All parts into ``job.made``: ``text/``, ``vision/``, and what goes in beside the prompt."""
    kind: Any = Qwen3VLMoeForConditionalGeneration
    model = kind.from_pretrained(job.model, dtype=dtype).eval()
    export_text(model, job.model, job.made, exporter, config)
    given = given_to_vision(model, job.model)
    exporter.export(model.model.visual, given, config).save_pretrained(job.made / "vision")
    arrays: dict[str, Any] = {
        name: value.float().numpy() if value.is_floating_point() else value.numpy()
        for name, value in given.items()
        if isinstance(value, torch.Tensor)
    }
    np.savez(job.made / VISION, **arrays)
    table = model.get_input_embeddings().weight.detach().float().numpy()
    np.save(job.made / EMBEDDINGS, table)
    image = {"image_token_id": model.config.image_token_id}
    (job.made / FACTS).write_text(json.dumps(image) + "\n")


def export_text(model: Any, source: Path, made: Path, exporter: Any, config: Any) -> None:
    """The parts that the exporter itself cuts a model into."""
    with np.load(source / "prompt.npz") as prompt:
        arrays = {name: torch.from_numpy(prompt[name]) for name in prompt}
    ids = arrays["input_ids"]
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
        "pixel_values": arrays["pixel_values"].to(model.dtype),
        "image_grid_thw": arrays["image_grid_thw"],
    }
    exporter.export_for_generation(model, given, config).save_pretrained(made / "text")


def given_to_vision(model: Any, source: Path) -> dict[str, Any]:
    """The tower's inputs, with those that the exporter computes outside of the graph."""
    with np.load(source / "prompt.npz") as prompt:
        given: dict[str, Any] = {
            "hidden_states": torch.from_numpy(prompt["pixel_values"]).to(model.dtype),
            "grid_thw": torch.from_numpy(prompt["image_grid_thw"]),
        }
    precompute_export_inputs(model.model.visual, given)
    return given
