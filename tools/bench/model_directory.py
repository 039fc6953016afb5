"""A Transformers directory of random weights, with tokenizer, processor, a picture and a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from model_sizes import SPECIAL, Sizes
from safetensors.torch import save_file

# Splits as Qwen's tokenizers do: every digit is a token, which makes prompts of any length.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_QUESTION = "What does the picture show? Its number is "

_SHARD_BYTES = 10**9


def make_directory(sizes: Sizes, folder: Path, *, seed: int = 0) -> None:
    """A model of ``sizes`` in bfloat16, as ``from_pretrained`` reads it.

    One shard at a time is in memory.
    """
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    config = Qwen3VLMoeConfig(**sizes.config(), dtype="bfloat16")
    with torch.device("meta"):
        model = Qwen3VLMoeForConditionalGeneration(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.eos_token_id = sizes.id_of("<|im_end|>")
    model.generation_config.save_pretrained(folder)
    _write_shards(model, sizes, folder, torch.Generator().manual_seed(seed))
    tokenizer(sizes).save_pretrained(folder)
    _processor(sizes).save_pretrained(folder)


def _write_shards(model: Any, sizes: Sizes, folder: Path, generator: torch.Generator) -> None:
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def write() -> None:
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, parameter in model.named_parameters():
        shard[name] = _drawn(name, parameter.shape, sizes, generator)
        if sum(tensor.nbytes for tensor in shard.values()) >= _SHARD_BYTES:
            write()
    if shard:
        write()
    index = {"metadata": {"total_size": 2 * sizes.parameters}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _drawn(name: str, shape: torch.Size, sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
    """A weight of the size that training leaves, so that tokens go to different experts."""
    made = torch.empty(shape, dtype=torch.bfloat16)
    if made.dim() == 1:
        bias = name.endswith("bias")
        return made.uniform_(*(-0.1, 0.1) if bias else (0.7, 1.3), generator=generator)
    # Three times the spread: softmax prefers some experts, as it does in a trained router.
    made.normal_(0, shape[-1] ** -0.5 * (3 if "gate.weight" in name else 1), generator=generator)
    if name == "lm_head.weight":
        # Its logit is 0, and the highest of so many others is not: no answer ends.
        made[sizes.id_of("<|im_end|>")] = 0
    return made


def tokenizer(sizes: Sizes) -> Any:
    """Bytes, as many pairs of bytes as the vocabulary has place for, and the special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = sizes.vocabulary - len(letters) - len(SPECIAL)
    pairs = [(first, second) for first in letters for second in letters][:room]
    tokens = letters + [first + second for first, second in pairs]
    core = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, pairs))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    kind: Any = PreTrainedTokenizerFast
    made = kind(tokenizer_object=core, eos_token=SPECIAL[1])
    made.chat_template = _TEMPLATE
    return made


def _processor(sizes: Sizes) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    side = sizes.patch * sizes.merge
    return Qwen2VLImageProcessorPil(
        patch_size=sizes.patch,
        merge_size=sizes.merge,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": side * side, "longest_edge": (32 * side) ** 2},
    )


def make_prompt(sizes: Sizes, folder: Path, *, side: int, tokens: int) -> None:
    """``prompt.json``, ``prompt.png`` and ``prompt.npz``: a picture and words, ``tokens`` together.

    The arrays are what a processor makes of them, and the positions that the model gives them, for
    peers that run without Transformers.
    """
    import numpy as np
    from PIL import Image
    from transformers import AutoTokenizer, Qwen3VLMoeConfig

    noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
    picture.save(folder / "prompt.png")
    words = AutoTokenizer.from_pretrained(folder)
    features = sizes.image_tokens(side)
    question, ids = _question(words, features, tokens)
    seen = _processor(sizes)(picture, return_tensors="np")
    config = Qwen3VLMoeConfig.from_pretrained(folder)
    np.savez(
        folder / "prompt.npz",
        input_ids=np.array([ids], np.int64),
        position_ids=_positions(config, ids, seen["image_grid_thw"]),
        pixel_values=seen["pixel_values"].astype(np.float32),
        image_grid_thw=seen["image_grid_thw"].astype(np.int64),
    )
    facts = {"question": question, "tokens": len(ids), "image_tokens": features, "side": side}
    (folder / "prompt.json").write_text(json.dumps(facts, indent=1) + "\n")


def _question(words: Any, features: int, tokens: int) -> tuple[str, list[int]]:
    """Words, with as many digits as make the prompt ``tokens`` long, and all of its ids."""
    question = _QUESTION
    while True:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = words.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        text = text.replace("<|image_pad|>", "<|image_pad|>" * features)
        ids: list[int] = words(text, add_special_tokens=False)["input_ids"]
        if len(ids) == tokens:
            return question, ids
        if len(ids) > tokens:
            raise ValueError(f"a prompt of {tokens} tokens holds no image of {features}")
        question += "".join(str(place % 10) for place in range(tokens - len(ids)))


def _positions(config: Any, ids: list[int], grid: Any) -> Any:
    """``[3, 1, tokens]``: time, row and column of each token."""
    from transformers import Qwen3VLMoeForConditionalGeneration

    with torch.device("meta"):
        model = Qwen3VLMoeForConditionalGeneration(config)
    row = torch.tensor([ids])
    kinds = (row == config.image_token_id).to(torch.int32)
    positions, _ = model.model.get_rope_index(
        row, mm_token_type_ids=kinds, image_grid_thw=torch.from_numpy(grid)
    )
    return positions.numpy()


def main() -> None:
    """Make what ``models.py`` asks for in JSON."""
    import sys

    facts = json.loads(sys.argv[1])
    sizes, folder = Sizes(**facts["sizes"]), Path(facts["folder"])
    make_directory(sizes, folder)
    make_prompt(sizes, folder, side=facts["side"], tokens=facts["tokens"])


if __name__ == "__main__":
    main()
