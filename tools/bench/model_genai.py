"""onnxruntime-genai's model builder and its generator, on text.

The builder knows no qwen3_vl_moe and no qwen3_moe.  Nearest is the text of a qwen3_5_moe with full
attention in every layer, of the same sizes and with random weights; beside the experts it has a
shared one, here of 64 rows, and a gate behind attention.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_job import Job, Measured, NotRunError, measure

_KINDS = {"f32": "fp32", "int8": "int4", "int4": "int4"}
"""The builder's word; int8 is its int4 with experts, and what else is asked for, in int8."""

_SHARED = 64


def prepare(job: Job) -> None:
    if job.precision not in _KINDS:
        raise NotRunError(f"the builder has no {job.precision} for the CPU")
    source = job.made / "source"
    _save_text(job.model, source)
    options = [f"{name}={value}" for name, value in job.options.get("options", {}).items()]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source]
    command += ["-o", job.made / "model", "-p", _KINDS[job.precision], "-e", "cpu"]
    command += ["-c", job.made / "cache", "--extra_options", "exclude_mtp=true", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it wrote nothing"]
        raise NotRunError(f"the builder exits with {done.returncode}: {lines[-1][:300]}")
    shutil.rmtree(source)
    shutil.rmtree(job.made / "cache", ignore_errors=True)


def _save_text(model: Path, folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    given = json.loads((model / "config.json").read_text())
    text = {name: given["text_config"][name] for name in _SAME} | {
        "num_experts": given["text_config"]["num_local_experts"],
        "layer_types": ["full_attention"] * given["text_config"]["num_hidden_layers"],
        "shared_expert_intermediate_size": _SHARED,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "partial_rotary_factor": 1.0,
            "mrope_section": given["text_config"]["rope_parameters"]["mrope_section"],
            "mrope_interleaved": True,
        },
    }
    tower = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32}
    tower["out_hidden_size"] = given["text_config"]["hidden_size"]
    config = Qwen3_5MoeConfig(text_config=text, vision_config=tower)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    made: Any = Qwen3_5MoeForConditionalGeneration(config)
    torch.set_default_dtype(default)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)


_SAME = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "moe_intermediate_size", "num_experts_per_tok",
    "eos_token_id", "tie_word_embeddings",
)  # fmt: skip


class Genai:
    """The builder's model, and a generator for each answer."""

    def __init__(self, job: Job) -> None:
        import onnxruntime_genai as genai

        config = genai.Config(str(job.made / "model"))
        settings = {
            "model": {"decoder": {"session_options": {"intra_op_num_threads": job.threads}}}
        }
        config.overlay(json.dumps(settings))
        self._genai = genai
        self._model = genai.Model(config)
        self._ids = job.prompt()["input_ids"][0].astype("int32")

    def answer(self, count: int) -> Iterator[int]:
        parameters = self._genai.GeneratorParams(self._model)
        length = len(self._ids) + count
        parameters.set_search_options(do_sample=False, min_length=length, max_length=length)
        generator = self._genai.Generator(self._model, parameters)
        generator.append_tokens(self._ids)
        for _ in range(count):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    def see(self) -> object:
        return None


def run(job: Job) -> Measured:
    return measure(job, Genai)
