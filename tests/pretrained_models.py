"""Small Transformers models with seeded weights, tokenizer and processor, as users have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The bytes, then these.
IDS = {token: 256 + place for place, token in enumerate(SPECIAL)}
VOCABULARY = 320

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 1024,
    "eos_token_id": IDS["<|im_end|>"],
    "pad_token_id": None,
    "bos_token_id": None,
}
TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 48,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 64,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def lively(model: torch.nn.Module, seed: int = 0) -> Any:
    """Weights of the size that training leaves, so that routing and answers vary."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                spread = parameter.shape[-1] ** -0.5 * (3 if "gate.weight" in name else 1)
                parameter.normal_(0, spread, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            else:
                parameter.uniform_(0.7, 1.3, generator=generator)
    return model.eval()


def tokenizer(special: Sequence[str] = SPECIAL, named: Mapping[str, str] | None = None) -> Any:
    """One token for each byte, and the special ones, some of which a model has names for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(special))
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=special[1], extra_special_tokens=dict(named or {})
    )
    made.chat_template = TEMPLATE
    return made


def save_qwen3_vl_moe(folder: Path, **text: Any) -> Any:
    """A Qwen3-VL with experts in ``folder``; returns the model."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    config = Qwen3VLMoeConfig(
        text_config={**TEXT, **EXPERTS, "rope_parameters": rope, **text},
        vision_config={
            **TOWER,
            "depth": 3,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=IDS["<|image_pad|>"],
        video_token_id=IDS["<|video_pad|>"],
        vision_start_token_id=IDS["<|vision_start|>"],
        vision_end_token_id=IDS["<|vision_end|>"],
    )
    model = lively(Qwen3VLMoeForConditionalGeneration(config))
    model.generation_config.eos_token_id = IDS["<|im_end|>"]
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    processor = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    )
    processor.save_pretrained(folder)
    return model
