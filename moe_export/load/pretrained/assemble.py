"""From a Transformers model to parts that together are shown to be that model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from moe_export.errors import RewriteError, UnsafeInputError
from moe_export.lazy import together
from moe_export.load.pretrained.directory import Pretrained
from moe_export.load.pretrained.embedding import DeepstackEmbed, Embed, EmbedText, TypedEmbed
from moe_export.load.pretrained.examples import (
    Examples,
    Inputs,
    PartInputs,
    embed_inputs,
    embed_text_inputs,
    vision_inputs,
)
from moe_export.load.pretrained.fronted import ClassVision, RegisterVision
from moe_export.load.pretrained.masks import REFERENCE, kinds_of, narrowed
from moe_export.load.pretrained.mended import mend
from moe_export.load.pretrained.ngrams import NgramDecoder, NgramEmbed, NgramEmbedText
from moe_export.load.pretrained.parts import (
    Decoder,
    DeepstackDecoder,
    Part,
    TypedDecoder,
    looks_up_ngrams,
    text_model_of,
)
from moe_export.load.pretrained.placeholders import special_tokens, stand_ins
from moe_export.load.pretrained.prompts import Prompts, decoder_inputs, modality_of
from moe_export.load.pretrained.vision import (
    CroppedVision,
    JoinedVision,
    PackedVision,
    PaddedVision,
    TileVision,
)
from moe_export.load.pretrained.walked import CutVision, LinedVision
from moe_export.load.usercode import run_user_code
from moe_export.moe.families import Family, Packed, Padded, Tiles

# Of a prompt, for models whose layers tell it from what follows: in each text of words alone, and
# more than a window is narrowed to.
_BEHIND = 3

# Float32 rounding of two orders of the same sums, through all layers, over the largest logit.
_TOLERANCE = 1e-4

_IN_PARTS = "the model does not run in parts"


@dataclass(frozen=True, kw_only=True)
class LoadedPart:
    """What becomes one graph: its name, its module, and what to trace that with."""

    name: str
    module: Part
    inputs: PartInputs


def assemble(source: Pretrained, *, all_logits: bool = False) -> list[LoadedPart]:
    """The parts of the model, the decoder first, with the logits of the last token or of all.

    Raises ``RewriteError`` where the parts in turn do not give the logits of the whole model, for a
    prompt and for the token after it.
    """
    model: Any = source.model.eval()
    mend(model)
    if source.family is None:
        return _language(model, all_logits=all_logits)
    return _vision_language(model, source.family, source.crop_side, all_logits=all_logits)


def _language(model: Any, *, all_logits: bool) -> list[LoadedPart]:
    examples = Examples(model)
    ids = examples.tokens(2, 12)
    with torch.no_grad(), narrowed(model.config.get_text_config(), model):
        whole = _logits(model, {"input_ids": ids})
    ngrams = looks_up_ngrams(text_model_of(model))
    embed = (NgramEmbedText if ngrams else EmbedText)(model).eval()
    decoder = (NgramDecoder if ngrams else Decoder)(model, all_logits=all_logits).eval()
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    own = {**embed.run({"input_ids": ids}), "position_ids": positions}
    prompts = Prompts(decoder=decoder, own=own, modality=modality_of(ids))
    inputs = _proven(prompts, {0: whole, ids.shape[1] - 1: whole}, model)
    return [
        LoadedPart(name="decoder", module=decoder, inputs=inputs),
        LoadedPart(name="embed", module=embed, inputs=embed_text_inputs(examples)),
    ]


def _vision_language(
    model: Any, family: Family, crop_side: int | None, *, all_logits: bool
) -> list[LoadedPart]:
    images = family.images
    examples = Examples(model, images, crop_side)
    shapes = examples.two_shapes()
    ids = torch.cat([examples.prompt([shape], 3) for shape in shapes])
    seen = examples.seen(shapes)
    given = {"input_ids": ids, **examples.as_source(seen)}
    whole, positions = _whole(model, given)
    wholes = {0: whole, ids.shape[1] - 1: whole}
    if REFERENCE in kinds_of(model.config.get_text_config()):
        start = ids.shape[1] - _BEHIND
        wholes[start] = _whole_behind(model, given, start)
    if positions.dim() != {"plain": 2, "mrope": 3}[family.positions]:
        raise RewriteError(
            f"the model gives its tokens positions {list(positions.shape)}, "
            f"which are not those of {family.positions!r}",
            where=type(model).__name__,
            hint="the family's record is wrong; please report it",
        )
    vision = _vision(model, images, has_crops=crop_side is not None).eval()
    embed, decoder = _parts(model, family, all_logits=all_logits)
    own = {**embed.run({"input_ids": ids, **vision.run(seen)}), "position_ids": positions}
    modality = modality_of(ids, model.config.image_token_id)
    inputs = _proven(Prompts(decoder=decoder, own=own, modality=modality), wholes, model)
    return [
        LoadedPart(name="decoder", module=decoder, inputs=inputs),
        LoadedPart(name="embed", module=embed, inputs=embed_inputs(examples, vision)),
        LoadedPart(name="vision", module=vision, inputs=vision_inputs(examples, images)),
    ]


def _whole(model: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The logits of the whole model, and the positions that it gives to the tokens."""
    ids = inputs["input_ids"]
    given = {**inputs, "attention_mask": torch.ones_like(ids), **kinds_of_tokens(model, ids)}
    seen: list[Tensor | None] = []

    def record(_: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        seen.append(kwargs.get("position_ids"))

    handle = text_model_of(model).register_forward_pre_hook(record, with_kwargs=True)
    try:
        with torch.no_grad(), narrowed(model.config.get_text_config(), model):
            logits = _logits(model, given)
    finally:
        handle.remove()
    if seen[0] is None:
        return logits, torch.arange(ids.shape[1]).expand_as(ids)
    positions = seen[0].long()  # a family counts in floats
    return logits, positions.expand(*positions.shape[:-2], *ids.shape)


def _whole_behind(model: Any, inputs: Inputs, start: int) -> Tensor:
    """The logits of the whole model for what follows ``start`` tokens, which are the prompt."""
    ids = inputs["input_ids"]
    before, mask = {**inputs, "input_ids": ids[:, :start]}, torch.ones_like(ids)
    with torch.no_grad(), narrowed(model.config.get_text_config(), model):
        made = run_user_code(
            lambda: model(**before, attention_mask=mask[:, :start], use_cache=True),
            failure="the model does not run",
            where=type(model).__name__,
        )
        after = {"input_ids": ids[:, start:], "attention_mask": mask, "cache": made.cache}
        return _logits(model, after)


def kinds_of_tokens(model: Any, ids: Tensor) -> Inputs:
    """What a processor says of ``ids`` beside them, as far as the whole model takes it."""
    taken, config = inspect.signature(model.forward).parameters, model.config
    is_image = ids == config.image_token_id
    made = {"mm_token_type_ids": is_image.int()}
    if "moe_mm_token_type_ids" in taken:
        around = torch.tensor([config.image_start_token_id, config.image_end_token_id])
        made["moe_mm_token_type_ids"] = (is_image | torch.isin(ids, around)).int()
    return {name: x for name, x in made.items() if name in taken}


def _special_text(model: Any) -> Inputs:
    """A text of all special tokens that an answer may hold."""
    size = model.config.get_text_config().vocab_size
    ids = torch.tensor([[i for i in special_tokens(model.config) if 0 <= i < size] or [0]])
    more = kinds_of_tokens(model, ids)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}


def _parts(model: Any, family: Family, *, all_logits: bool) -> tuple[Embed, Decoder]:
    """``embed`` and ``decoder``.  From here on attention is the parts' own."""
    others = stand_ins(model, _special_text(model))
    embed: Embed
    decoder: type[Decoder]
    if isinstance(family.images, Packed) and family.images.deepstack:
        embed, decoder = DeepstackEmbed(model, others), DeepstackDecoder
    elif looks_up_ngrams(text_model_of(model)):
        embed, decoder = NgramEmbed(model, others), NgramDecoder
    elif family.image_tokens:
        embed, decoder = TypedEmbed(model, others, family.image_tokens), TypedDecoder
    else:
        embed, decoder = Embed(model, others), Decoder
    return embed.eval(), decoder(model, all_logits=all_logits).eval()


def _vision(model: Any, images: Packed | Tiles | Padded, *, has_crops: bool) -> Part:
    match images:
        case Tiles():
            cropped = CroppedVision if images.row_end is None else JoinedVision
            return (cropped if has_crops else TileVision)(model, images)
        case Packed():
            return _packed(images)(model, images)
        case Padded():
            return PaddedVision(model, images)


def _packed(images: Packed) -> type[PackedVision]:
    match images.in_front:
        case "registers":
            return RegisterVision
        case "class":
            return ClassVision
    return LinedVision if images.newline else CutVision if images.cut else PackedVision


def _logits(model: Any, inputs: Inputs) -> Tensor:
    """Of the whole model, ``[B, S, V]``."""
    where = type(model).__name__
    logits: Tensor = run_user_code(
        lambda: model(**inputs).logits, failure="the model does not run", where=where
    )
    if not logits.isfinite().all():
        raise UnsafeInputError(
            "the logits of the model are not finite numbers",
            where=where,
            hint="its weights may be damaged",
        )
    return logits


def _proven(prompts: Prompts, wholes: Mapping[int, Tensor], model: Any) -> PartInputs:
    """What to trace the decoder with, if it gives the logits of the whole model for the prompts.

    These are ``wholes``, ``[B, ., V]`` of the last tokens, by where a run behind a cache starts.
    """
    decoder, length = prompts.decoder, prompts.length
    where = type(model).__name__
    with narrowed(decoder.text_config, decoder):
        run_user_code(prompts.prepare, failure=_IN_PARTS, where=where)
        runs = [partial(_logits_from, prompts, start, where) for start in wholes]
        for (start, whole), made in zip(wholes.items(), together(runs), strict=True):
            limit = _TOLERANCE * float(whole.abs().max())
            off = float((made - whole[:, -made.shape[1] :]).abs().max())
            if not off <= limit:
                name = f"{length - start} more behind a cache" if start else "prompt"
                raise RewriteError(
                    f"the parts of the model do not give its logits: {name!r} differs by "
                    f"{off:.1e}, rounding explains {limit:.1e}",
                    where=where,
                    hint="this family needs a record of its own; please report it",
                )
    return decoder_inputs(prompts)


def _logits_from(prompts: Prompts, start: int, where: str) -> Tensor:
    """Of the parts, for the tokens from ``start`` behind a cache: ``[B, S, V]``, or of the last."""
    made = run_user_code(
        lambda: prompts.decoder.run(prompts.case(start, prompts.length)),
        failure=_IN_PARTS,
        where=where,
    )
    return made["logits"]
