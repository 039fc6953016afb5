"""From a Transformers model to parts that together are shown to be that model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_export.errors import RewriteError
from moe_export.load.pretrained import attention
from moe_export.load.pretrained.directory import Pretrained
from moe_export.load.pretrained.examples import (
    Examples,
    Inputs,
    PartInputs,
    decoder_inputs,
    embed_inputs,
    embed_text_inputs,
    vision_inputs,
)
from moe_export.load.pretrained.parts import (
    Decoder,
    Embed,
    EmbedText,
    Part,
    Vision,
    VisionLanguageDecoder,
)

# Float32 rounding of two orders of the same sums, through all layers, over the largest logit.
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class LoadedPart:
    """What becomes one graph: its name, its module, and what to trace that with."""

    name: str
    module: Part
    inputs: PartInputs


def assemble(source: Pretrained) -> list[LoadedPart]:
    """The parts of the model, the decoder first.

    Raises ``RewriteError`` where the parts in turn do not give the logits of the whole model, for a
    prompt and for the token after it.
    """
    model: Any = source.model.eval()
    examples = Examples(model)
    if source.family is None:
        return _language(model, examples)
    return _vision_language(model, examples)


def _language(model: Any, examples: Examples) -> list[LoadedPart]:
    ids = examples.tokens(2, 12)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
    embed, decoder = EmbedText(model).eval(), Decoder(model).eval()
    prompts = _run(embed, {"input_ids": ids})
    prompts["position_ids"] = torch.arange(ids.shape[1]).expand_as(ids)
    inputs = decoder_inputs(decoder, prompts, dimensions=1)
    _require_equal(decoder, inputs, whole, model)
    return [
        LoadedPart(name="decoder", module=decoder, inputs=inputs),
        LoadedPart(name="embed", module=embed, inputs=embed_text_inputs(examples)),
    ]


def _vision_language(model: Any, examples: Examples) -> list[LoadedPart]:
    images = [(2, 3), (3, 2)]
    ids = torch.cat([examples.prompt([image], 3) for image in images])
    seen = examples.patches(images)
    is_image = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        whole = model(input_ids=ids, mm_token_type_ids=is_image, **seen).logits
        positions, _ = model.model.get_rope_index(ids, is_image, seen["image_grid_thw"])
    attention.register()
    model.model.visual.config._attn_implementation = attention.SEGMENTS
    vision, embed = Vision(model).eval(), Embed(model).eval()
    decoder = VisionLanguageDecoder(model).eval()
    prompts = _run(embed, {"input_ids": ids, **_run(vision, seen)})
    prompts["position_ids"] = positions
    inputs = decoder_inputs(decoder, prompts, dimensions=3)
    _require_equal(decoder, inputs, whole, model)
    return [
        LoadedPart(name="decoder", module=decoder, inputs=inputs),
        LoadedPart(name="embed", module=embed, inputs=embed_inputs(examples, vision)),
        LoadedPart(name="vision", module=vision, inputs=vision_inputs(examples)),
    ]


def _require_equal(decoder: Decoder, inputs: PartInputs, whole: Tensor, model: Any) -> None:
    """Each unpadded case ends at the last token of what ``whole [B, S, V]`` are the logits of."""
    limit = _TOLERANCE * float(whole.abs().max())
    for name in ("prompt", "one token more"):
        made = _run(decoder, inputs.cases[name])["logits"][:, -1]
        off = float((made - whole[:, -1]).abs().max())
        if not off <= limit:
            raise RewriteError(
                f"the parts of the model do not give its logits: {name!r} differs by {off:.1e}, "
                f"rounding explains {limit:.1e}",
                where=type(model).__name__,
                hint="this family needs a record of its own; please report it",
            )


def _run(part: Part, inputs: Inputs) -> Inputs:
    with torch.no_grad():
        made: Inputs = part(**inputs)
    return made
