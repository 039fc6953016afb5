"""What a training run leaves behind: the checkpoint, its measurements and images to try it on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

import moe_export
from digits_vlm.batch import pack
from digits_vlm.data import BRIGHTEST, Digits
from digits_vlm.evaluate import MAX_NEW_TOKENS, QuestionSet, held_out_questions
from digits_vlm.model import DigitsVLM
from digits_vlm.questions import KINDS, NUMBERS
from digits_vlm.tokenizer import EOS, PAD


def save_model(path: Path, model: DigitsVLM, tokenizer: Tokenizer) -> None:
    """Write a checkpoint that ``moe-export`` reads, with all that turns pixels into words."""
    questions = held_out_questions()
    example = pack(questions.images[: len(KINDS)], questions.questions[: len(KINDS)], tokenizer)
    size = model.config.image_size
    preprocessor = {
        "image_input": "image",
        "size": {"height": size, "width": size},
        "mode": "L",
        "rescale_factor": 1 / 255,
        "layout": "HW",
    }
    generation = {
        "text_input": "tokens",
        "logits_output": None,  # the first, and only, output
        "eos_token_id": tokenizer.token_to_id(EOS),
        "pad_token_id": tokenizer.token_to_id(PAD),
        "max_new_tokens": MAX_NEW_TOKENS,
        "max_length": model.config.max_positions,
    }
    moe_export.save_checkpoint(
        model,
        path,
        factory="digits_vlm.model:build",
        config=asdict(model.config),
        example_inputs=(example.image, example.tokens),
        assets={
            "tokenizer.json": tokenizer.to_str(pretty=True),
            "preprocessor_config.json": _json(preprocessor),
            "generation_config.json": _json(generation),
        },
    )


def save_samples(folder: Path, digits: Digits, *, extra: int = 2) -> None:
    """Write an image of each digit and ``extra`` more as PNG, and one question about each.

    ``questions.json`` lists ``image`` (relative to ``folder``), ``question``, ``answer`` and
    ``kind``.  The kinds take turns.
    """
    first_of_each = [int(np.flatnonzero(digits.labels == digit)[0]) for digit in range(10)]
    others = [row for row in range(len(digits)) if row not in first_of_each][:extra]
    rows = first_of_each + others
    asked = held_out_questions(digits=digits).questions
    (folder / "images").mkdir(parents=True, exist_ok=True)
    samples = []
    for turn, row in enumerate(rows):
        name = f"images/{NUMBERS[digits.labels[row]]}-{digits.indices[row]:04d}.png"
        Image.fromarray(to_pixels(digits.images[row])).save(folder / name)
        question = asked[row * len(KINDS) + turn % len(KINDS)]
        samples.append(
            {
                "image": name,
                "question": question.text,
                "answer": question.answer,
                "kind": question.kind,
            }
        )
    (folder / "questions.json").write_text(_json(samples))


def to_pixels(image: np.ndarray) -> np.ndarray:
    """0..1 as 8-bit gray: what an image file holds."""
    levels = np.rint(image * BRIGHTEST)
    return np.rint(levels * 255 / BRIGHTEST).astype(np.uint8)


@torch.inference_mode()
def expert_usage(
    model: DigitsVLM, tokenizer: Tokenizer, question_set: QuestionSet
) -> list[list[float]]:
    """For each block, the share of all assignments that each expert got; even is 1/E."""
    batch = pack(question_set.images, question_set.questions, tokenizer)
    _, router_logits = model(batch.image, batch.tokens, return_router_logits=True)
    counted = batch.counted(model.config.num_patches)
    usage = []
    for block in router_logits:
        topk_ids = torch.topk(block[counted], model.config.top_k, dim=-1).indices
        tokens_per_expert = torch.bincount(topk_ids.flatten(), minlength=model.config.num_experts)
        usage.append((tokens_per_expert / tokens_per_expert.sum()).tolist())
    return usage


def parameters(model: DigitsVLM) -> dict[str, int]:
    """How many weights there are, and how many of them one token meets."""
    total = sum(weight.numel() for weight in model.parameters())
    expert = sum(weight.numel() for weight in model.blocks[0].moe.experts[0].parameters())
    idle = (model.config.num_experts - model.config.top_k) * expert * model.config.num_layers
    return {"total": total, "active_per_token": total - idle}


def save_metrics(path: Path, metrics: dict[str, Any]) -> None:
    path.write_text(_json(metrics))


def _json(value: dict[str, Any] | Sequence[Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
