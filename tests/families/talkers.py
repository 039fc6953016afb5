"""Small models that are shown images: each family's tokens, chat template and own processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrained_models import IDS, SPECIAL, TEMPLATE, tokenizer

from .catalogue import Case

_START, _IMAGE = IDS["<|vision_start|>"], IDS["<|image_pad|>"]
_QWEN = "<|vision_start|><|image_pad|><|vision_end|>"


@dataclass(frozen=True, kw_only=True)
class Talker:
    """How one family is asked, with a processor for small images.

    ``tokens`` are the special ones from the start of an image on, at the ids of
    ``configurations.py``: start, end, image, video, and what else the family has.
    """

    family: str
    processor: str
    image_processor: str
    settings: Mapping[str, Any]
    words: Mapping[str, Any] = field(default_factory=dict)
    """What the processor has beside its parts."""

    tokens: tuple[str, ...] = SPECIAL[2:]
    named: Mapping[str, str] = field(default_factory=dict)
    """Tokens by the names that the family's tokenizer has for them."""

    image: str = _QWEN
    """What its chat template puts for an image."""

    needs_torchvision: bool = False
    """Whether its processor does, although its image processor does not."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the configuration, by dotted name."""

    def tokenizer(self) -> Any:
        special = (*SPECIAL[:2], *self.tokens)
        made = tokenizer(special, self.named)
        made.unk_token = made.pad_token = special[0]
        made.chat_template = TEMPLATE.replace(_QWEN, self.image)
        if self.family == "llama4":
            from transformers.models.llama4.processing_llama4 import chat_template

            made.chat_template, made.bos_token = chat_template, special[0]
        return made

    def image_processor_class(self) -> Any:
        import transformers

        return getattr(transformers, self.image_processor)

    @property
    def has_pillow(self) -> bool:
        """Whether Transformers has a processor for it that resizes with Pillow."""
        return self.image_processor.endswith("Pil") and not self.needs_torchvision

    def save(self, folder: Path) -> None:
        """A model, its tokenizer and its processor, as users have them."""
        Case(self.family, "vision").save(folder, self.changes)
        self.tokenizer().save_pretrained(folder)
        self.image_processor_class()(**self.settings).save_pretrained(folder)
        words = {"processor_class": self.processor, **self.words}
        (folder / "processor_config.json").write_text(json.dumps(words))

    def judge(self, folder: Path) -> Any:
        """The family's processor, without the parts for video and sound."""
        import transformers

        kind: Any = getattr(transformers, self.processor)
        lenient: Any = type(
            self.processor, (kind,), {"check_argument_for_proper_class": lambda *_: None}
        )
        parts = dict.fromkeys(kind.get_attributes())
        parts["image_processor"] = self.image_processor_class().from_pretrained(folder)
        parts["tokenizer"] = transformers.AutoTokenizer.from_pretrained(folder)
        return lenient(**parts, **self.words)


_AREA = {"size": {"shortest_edge": 256, "longest_edge": 2304}, "patch_size": 4, "merge_size": 2}
_QWEN_VL = {
    "processor": "Qwen3VLProcessor",
    "image_processor": "Qwen2VLImageProcessorPil",
    "settings": _AREA,
}

TALKERS = (
    Talker(family="qwen3_vl_moe", **_QWEN_VL),
    Talker(family="qwen3_5_moe", **_QWEN_VL),
    Talker(family="qwen4_exp", **_QWEN_VL),
    Talker(
        family="glm4v_moe",
        processor="Glm4vProcessor",
        image_processor="Glm4vImageProcessorPil",
        settings={**_AREA, "size": {"shortest_edge": 512, "longest_edge": 4096}},
        tokens=(
            "<|begin_of_image|>",
            "<|end_of_image|>",
            "<|image|>",
            "<|video|>",
            "<|begin_of_video|>",
            "<|end_of_video|>",
        ),
        image="<|begin_of_image|><|image|><|end_of_image|>",
    ),
    Talker(
        family="glm46v",
        processor="Glm46VProcessor",
        image_processor="Glm46VImageProcessorPil",
        settings={**_AREA, "size": {"shortest_edge": 512, "longest_edge": 4096}},
        tokens=(
            "<|begin_of_image|>",
            "<|end_of_image|>",
            "<|image|>",
            "<|video|>",
            "<|begin_of_video|>",
            "<|end_of_video|>",
        ),
        image="<|begin_of_image|><|image|><|end_of_image|>",
    ),
    Talker(
        family="glm5_next",
        processor="Glm5NextProcessor",
        image_processor="Glm5NextImageProcessorPil",
        settings={
            "patch_size": 4,
            "merge_size": 2,
            "min_image_tokens": 4,
            "max_image_tokens": 36,
        },
        tokens=(
            "<|begin_of_image|>",
            "<|end_of_image|>",
            "<|image|>",
            "<|video|>",
            "<|begin_of_video|>",
            "<|end_of_video|>",
        ),
        image="<|begin_of_image|><|image|><|end_of_image|>",
    ),
    Talker(
        family="dots3_note",
        processor="Dots3NoteProcessor",
        image_processor="Qwen2VLImageProcessorPil",
        settings={**_AREA, "temporal_patch_size": 1},
        tokens=(
            "<|img|>",
            "<|endofimg|>",
            "<|imgpad|>",
            "<|video_pad|>",
            "<|vid|>",
            "<|endofvid|>",
            "<|audio_comp_pad|>",
        ),
        image="<|img|><|imgpad|><|endofimg|>",
    ),
    Talker(
        family="hy_v4_vl",
        processor="HYV4VLProcessor",
        image_processor="HYV4VLImageProcessorPil",
        # Lanczos, which the processor does not heed.
        settings={**_AREA, "resample": 1},
    ),
    Talker(
        family="ernie4_5_vl_moe",
        processor="Ernie4_5_VLMoeProcessor",
        image_processor="Ernie4_5_VLMoeImageProcessorPil",
        settings=_AREA,
        tokens=(
            "<|IMAGE_START|>",
            "<|IMAGE_END|>",
            "<|IMAGE_PLACEHOLDER|>",
            "<|VIDEO_PLACEHOLDER|>",
            "<|VIDEO_START|>",
            "<|VIDEO_END|>",
        ),
        named={
            "image_token": "<|IMAGE_PLACEHOLDER|>",
            "image_start_token": "<|IMAGE_START|>",
            "image_end_token": "<|IMAGE_END|>",
            "video_token": "<|VIDEO_PLACEHOLDER|>",
            "video_start_token": "<|VIDEO_START|>",
            "video_end_token": "<|VIDEO_END|>",
        },
        image="Picture: <|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    ),
    Talker(
        family="llama4",
        processor="Llama4Processor",
        image_processor="Llama4ImageProcessor",
        settings={"size": {"height": 16, "width": 16}, "max_patches": 6},
        words={"patch_size": 4},
        tokens=(
            "<|image_start|>",
            "<|image_end|>",
            "<|patch|>",
            "<|video|>",
            "<|image|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
        ),
    ),
    Talker(
        family="gemma4",
        processor="Gemma4Processor",
        image_processor="Gemma4ImageProcessorPil",
        settings={"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        tokens=(
            "<|image>",
            "<image|>",
            "<|image|>",
            "<|video|>",
            "<|audio|>",
            "<|audio>",
            "<audio|>",
        ),
        named={
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
        image="<|image|>",
    ),
    Talker(
        family="aria",
        processor="AriaProcessor",
        image_processor="AriaImageProcessorPil",
        settings={},
        words={"size_conversion": {"980": 4}},
        tokens=("<fim_prefix>", "<fim_suffix>", "<|img|>"),
        named={"image_token": "<|img|>"},
        image="<fim_prefix><|img|><fim_suffix>",
        changes={
            "vision_config.image_size": 980,
            "vision_config.patch_size": 140,
            "projector_patch_to_query_dict": {49: 4},
        },
    ),
    Talker(
        family="kimi_k25",
        processor="Kimi_K25Processor",
        image_processor="Kimi_K25ImageProcessor",
        settings={
            "size": {"max_height": 16, "max_width": 16},
            "max_patches": 120,
            "patch_size": 4,
        },
        tokens=(
            "<|media_begin|>",
            "<|media_end|>",
            "<|media_pad|>",
            "<|kimi_k25_video_placeholder|>",
            "<|media_content|>",
        ),
        image="<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
    ),
    Talker(
        family="inkling_mm_model",
        processor="InklingProcessor",
        image_processor="InklingImageProcessor",
        settings={
            "size": {"height": 40, "width": 40},
            "rescale_image_frac": 0.2,
            "resample": 3,  # torchvision has no Lanczos
        },
        words={
            "image_token": "<|unused_200054|>",
            "audio_token": "<|unused_200053|>",
            "image_bos_token": "<|content_image|>",
            "audio_bos_token": "<|content_audio_input|>",
        },
        tokens=(
            "<|content_image|>",
            "<|content_audio_input|>",
            "<|unused_200054|>",
            "<|unused_200053|>",
        ),
        image="<|content_image|><|unused_200054|>",
        changes={"vision_config.patch_size": 40},
    ),
    Talker(
        family="inkling2",
        processor="Inkling2Processor",
        image_processor="Inkling2ImageProcessor",
        settings={"size": {"height": 80, "width": 80}},
        words={"image_token": "<|unused_200054|>"},
        tokens=("<|content_image|>", "<|end_image|>", "<|unused_200054|>"),
        image="<|content_image|><|unused_200054|>",
        changes={"vision_config.patch_size": 40},
    ),
    Talker(
        family="nemotron_h_omni",
        processor="NemotronH_Omni_Reasoning_V3Processor",
        image_processor="NemotronH_Omni_Reasoning_V3ImageProcessor",
        settings={"patch_size": 4, "min_num_patches": 16, "max_num_patches": 144},
        tokens=("<img>", "</img>", "<image>", "<video>", "<so_embedding>"),
        image="<image>",
    ),
    Talker(
        family="mistral3",
        processor="PixtralProcessor",
        image_processor="PixtralImageProcessorPil",
        settings={"size": {"longest_edge": 50}},
        words={"patch_size": 4, "spatial_merge_size": 2},
        needs_torchvision=True,
        tokens=("<unused0>", "<unused1>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        image="[IMG]",
    ),
    Talker(
        family="mistral_large4",
        processor="PixtralProcessor",
        image_processor="PixtralImageProcessorPil",
        settings={"size": {"longest_edge": 50}},
        words={"patch_size": 4, "spatial_merge_size": 2},
        needs_torchvision=True,
        tokens=("<unused0>", "<unused1>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        image="[IMG]",
    ),
    Talker(
        family="minimax_m3_vl",
        processor="MiniMaxM3VLProcessor",
        image_processor="MiniMaxM3VLImageProcessor",
        settings=_AREA,
        tokens=("]<]start of image[>[", "]<]end of image[>[", "]<]image[>[", "]<]video[>["),
        image="]<]image[>[",
    ),
    Talker(
        family="muse_spark",
        processor="MuseSparkProcessor",
        image_processor="MuseGlimmerImageProcessor",
        settings={"patch_size": 4, "merge_size": 2, "max_image_tokens": 36},
        tokens=(
            "<|image_start|>",
            "<|image_end|>",
            "<|patch|>",
            "<|video|>",
            "<|vid_start|>",
            "<|vid_end|>",
            "<|audio|>",
        ),
        image="<|patch|>",
    ),
    Talker(
        family="qwen3_omni_moe",
        processor="Qwen3OmniMoeProcessor",
        image_processor="Qwen2VLImageProcessorPil",
        settings=_AREA,
        named={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "audio_token": "<|audio_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
        tokens=(
            *SPECIAL[2:],
            "<|video_start|>",
            "<|video_end|>",
            "<|audio_pad|>",
            "<|audio_start|>",
            "<|audio_end|>",
        ),
    ),
    Talker(
        family="step3p7",
        processor="Step3p7Processor",
        image_processor="Step3p7ImageProcessor",
        # A photograph is shrunk, and then cut into six.
        settings={
            "size": {"height": 168, "width": 168},
            "patch_size": 112,
            "max_image_size": 320,
        },
        tokens=(
            "<im_start>",
            "<im_end>",
            "<im_patch>",
            "<patch_start>",
            "<patch_end>",
            "<patch_newline>",
        ),
        image="<im_patch>",
        changes={"vision_config.image_size": 168, "vision_config.patch_size": 14},
    ),
    Talker(
        family="deepseek_ocr2",
        processor="DeepseekOcr2Processor",
        image_processor="DeepseekOcr2ImageProcessorPil",
        settings={"size": {"height": 1024, "width": 1024}},
        tokens=("<unused0>", "<unused1>", "<image>"),
        image="<image>\n",
        changes={
            "vision_config.sam_config.image_size": 1024,
            "text_config.max_position_embeddings": 4096,
        },
    ),
    Talker(
        family="unlimited_ocr",
        processor="UnlimitedOcrProcessor",
        image_processor="UnlimitedOcrImageProcessor",
        # A photograph is cut into two rows of three.
        settings={"size": {"height": 256, "width": 256}, "tile_size": 128, "max_patches": 6},
        tokens=("<unused0>", "<unused1>", "<image>"),
        image="<image>\n",
        changes={"vision_config.sam_config.image_size": 256},
    ),
    Talker(
        family="internvl",
        processor="InternVLProcessor",
        image_processor="GotOcr2ImageProcessorPil",
        settings={"size": {"height": 16, "width": 16}, "max_patches": 6},
        words={"image_seq_length": 4},
        tokens=("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        image="<IMG_CONTEXT>\n",
    ),
)
