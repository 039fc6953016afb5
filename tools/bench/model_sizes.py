"""What the measured models are: their sizes, as Transformers' configuration and as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""The last ids of every vocabulary here, in this order."""

_DEEPSTACK = 2
"""Blocks of the vision tower whose features go into the first layers of the text, as in Qwen's."""


@dataclass(frozen=True)
class Sizes:
    """A qwen3_vl_moe.  The defaults have 1.44 B parameters, of which 0.22 B meet a token.

    Heads, their size and the vision tower are Qwen3-VL-30B-A3B's scaled to half its width; the
    vocabulary is small, so that the experts are most of the model, as in large ones.
    """

    layers: int = 12
    experts: int = 64
    top_k: int = 8
    hidden: int = 1024
    intermediate: int = 512
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 128
    vocabulary: int = 32768
    vision_layers: int = 12
    vision_hidden: int = 768
    vision_heads: int = 12
    vision_intermediate: int = 3072
    patch: int = 16
    merge: int = 2
    positions: int = 2304
    """Of the vision tower, a square that is scaled to each image."""

    longest: int = 4096
    """Prompt and answer together, in tokens."""

    def __post_init__(self) -> None:
        if self.vocabulary < 256 + len(SPECIAL):
            raise ValueError("a vocabulary holds the bytes and the special tokens")
        if self.vision_layers < _DEEPSTACK:
            raise ValueError(f"a vision tower has {_DEEPSTACK} layers or more")

    @property
    def name(self) -> str:
        """For folders: different sizes have different names."""
        return (
            f"qwen3_vl_moe-{self.layers}x{self.experts}-h{self.hidden}-i{self.intermediate}"
            f"-v{self.vocabulary}"
        )

    def id_of(self, special: str) -> int:
        return self.vocabulary - len(SPECIAL) + SPECIAL.index(special)

    def image_tokens(self, side: int) -> int:
        """Of a square image whose sides are multiples of a merged patch."""
        return int((side // (self.patch * self.merge)) ** 2)

    @property
    def text_layer(self) -> int:
        """Parameters of a layer that every token meets."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        norms = 2 * self.hidden + 2 * self.head_dim
        return attention + norms + self.hidden * self.experts

    @property
    def expert(self) -> int:
        return 3 * self.hidden * self.intermediate

    @property
    def vision(self) -> int:
        """Parameters of the vision tower."""
        width, inner = self.vision_hidden, self.vision_intermediate
        block = 4 * width * width + 4 * width + 2 * width * inner + inner + width + 4 * width
        patches = 3 * 2 * self.patch**2 * width + width + self.positions * width
        merged = width * self.merge**2
        merger = merged * merged + merged + merged * self.hidden + self.hidden
        # The norm of the last merger is in front of merging, those of the others behind it.
        norms = 2 * width + _DEEPSTACK * 2 * merged
        return self.vision_layers * block + patches + (_DEEPSTACK + 1) * merger + norms

    @property
    def parameters(self) -> int:
        layer = self.text_layer + self.experts * self.expert
        return self.layers * layer + 2 * self.vocabulary * self.hidden + self.hidden + self.vision

    @property
    def met_by_a_token(self) -> int:
        """Parameters that one token of an answer is multiplied with."""
        layer = self.text_layer + self.top_k * self.expert
        return self.layers * layer + self.vocabulary * self.hidden

    def config(self) -> dict[str, Any]:
        """The arguments of ``Qwen3VLMoeConfig``."""
        quarter = self.head_dim // 8
        sections = [
            self.head_dim // 2 - 2 * (quarter + quarter // 4),
            *[quarter + quarter // 4] * 2,
        ]
        text = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": 4 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.longest,
            "moe_intermediate_size": self.intermediate,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "eos_token_id": self.id_of("<|im_end|>"),
            "bos_token_id": None,
            "pad_token_id": None,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": sections,
                "mrope_interleaved": True,
            },
        }
        step = self.vision_layers // _DEEPSTACK
        tower = {
            "depth": self.vision_layers,
            "hidden_size": self.vision_hidden,
            "num_heads": self.vision_heads,
            "intermediate_size": self.vision_intermediate,
            "patch_size": self.patch,
            "temporal_patch_size": 2,
            "spatial_merge_size": self.merge,
            "out_hidden_size": self.hidden,
            "num_position_embeddings": self.positions,
            "deepstack_visual_indexes": [step * place for place in range(_DEEPSTACK)],
        }
        return {
            "text_config": text,
            "vision_config": tower,
            "image_token_id": self.id_of("<|image_pad|>"),
            "video_token_id": self.id_of("<|video_pad|>"),
            "vision_start_token_id": self.id_of("<|vision_start|>"),
            "vision_end_token_id": self.id_of("<|vision_end|>"),
            "tie_word_embeddings": False,
        }


SMALL = Sizes(
    layers=3,
    experts=8,
    top_k=2,
    hidden=64,
    intermediate=32,
    heads=2,
    kv_heads=1,
    head_dim=32,
    vocabulary=512,
    vision_layers=3,
    vision_hidden=32,
    vision_heads=2,
    vision_intermediate=64,
    positions=64,
)
"""What tests and trials run in seconds."""

Prompt = tuple[int, int]
"""The sides of a square image in pixels, and how many tokens image and words are together."""

PROMPT = (448, 256)
"""196 of the tokens are the image's."""

SMALL_PROMPT = (128, 128)
