"""How a Transformers model is talked to, found out from its tokenizer and processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moe_export.dialogue import FILE_NAME, Dialogue, PatchRecipe, Prompt
from moe_export.errors import UnsupportedError
from moe_export.load.pretrained.directory import Pretrained
from moe_export.load.usercode import run_user_code
from moe_export.moe.families import Packed
from moe_export.runtime.patches import fitted, patches_of
from moe_export.runtime.text import TOKENIZER as _TOKENIZER
from moe_export.runtime.text import parse_tokenizer
from moe_export.strict_json import encode, parse, render

_PROCESSOR, _PROCESSORS = "preprocessor_config.json", "processor_config.json"
_MAX_NEW_TOKENS = 256  # where the model's own configuration names none

# What a processor has that makes patches of images of any shape.
_OF_PATCHES = (
    "patch_size",
    "temporal_patch_size",
    "merge_size",
    "size",
    "image_mean",
    "image_std",
    "get_number_of_image_patches",
)

# What stands for the user's words while a template is looked at.
_WORDS = "moe-export asks"


def dialogue_assets(source: Pretrained, folder: Path) -> dict[str, bytes]:
    """``dialogue.json`` where the directory has a tokenizer, else nothing."""
    if _TOKENIZER not in source.assets:
        return {}
    parse_tokenizer(source.assets[_TOKENIZER], str(folder / _TOKENIZER))
    made = run_user_code(
        lambda: _dialogue(source, folder),
        failure="the tokenizer or the processor cannot be used",
        where=str(folder),
    )
    return {FILE_NAME: render(encode(made)).encode()}


def _dialogue(source: Pretrained, folder: Path) -> Dialogue:
    from transformers import AutoTokenizer

    model: Any = source.model
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    recipe = None
    images = None if source.family is None else source.family.images
    if isinstance(images, Packed) and _has_image_processor(source.assets):
        recipe = _recipe(images, model.config, tokenizer, folder)
    settings, text = model.generation_config, model.config.get_text_config()
    return Dialogue(
        positions="plain" if source.family is None else source.family.positions,
        eos_token_ids=_ids(settings.eos_token_id, text.eos_token_id, tokenizer.eos_token_id),
        max_length=int(text.max_position_embeddings),
        max_new_tokens=int(settings.max_new_tokens or _MAX_NEW_TOKENS),
        prompt=_prompt(tokenizer, _template(tokenizer, folder), images=recipe is not None),
        patches=recipe,
    )


def _recipe(images: Packed, config: Any, tokenizer: Any, folder: Path) -> PatchRecipe | None:
    """How the runtime makes patches, or ``None`` where the processor makes others."""
    from transformers import AutoImageProcessor

    load: Any = AutoImageProcessor.from_pretrained
    processor = load(folder, local_files_only=True, trust_remote_code=False)
    if not all(getattr(processor, name, None) for name in _OF_PATCHES):
        return None
    times = int(processor.temporal_patch_size) if images.limits_count_time else 1
    recipe = PatchRecipe(
        token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        token_id=int(config.image_token_id),
        patch_size=int(processor.patch_size),
        temporal_patch_size=int(processor.temporal_patch_size),
        merge_size=int(processor.merge_size),
        min_pixels=-(-int(processor.size["shortest_edge"]) // times),
        max_pixels=int(processor.size["longest_edge"]) // times,
        rescale_factor=float(processor.rescale_factor),
        mean=tuple(map(float, processor.image_mean)),
        std=tuple(map(float, processor.image_std)),
    )
    return recipe if _makes_the_same(recipe, processor) else None


def _makes_the_same(recipe: PatchRecipe, processor: Any) -> bool:
    """Whether the processor makes of images what the runtime will.

    Values are compared where nothing is resized, for which there are several libraries; sizes also
    beyond both limits.
    """
    from PIL import Image

    unit = recipe.patch_size * recipe.merge_size
    for area in (recipe.min_pixels / 3, recipe.max_pixels * 0.8, recipe.max_pixels * 3):
        tall, wide = (max(unit, round((area * shape) ** 0.5)) for shape in (2 / 3, 3 / 2))
        high, broad = fitted(tall, wide, recipe)
        if processor.get_number_of_image_patches(tall, wide) * recipe.patch_size**2 != high * broad:
            return False
    height, width = fitted(2 * unit, 3 * unit, recipe)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    images = [pixels, pixels[: height * 2 // 3 + 1]]
    made = processor(images=[Image.fromarray(each) for each in images], return_tensors="np")
    grids, rows = made.get("image_grid_thw"), made.get("pixel_values")
    (patches, first), (_, second) = (patches_of(each, recipe) for each in images)
    if not np.array_equal(grids, [first, second]) or np.shape(rows)[1:] != patches.shape[1:]:
        return False
    # Some three roundings on either side, of numbers below 1 that are then divided.
    tolerance = 8 * np.finfo(np.float32).eps / min(recipe.std)
    return bool(np.abs(rows[: len(patches)] - patches).max() <= tolerance)


def _has_image_processor(assets: Mapping[str, bytes]) -> bool:
    """In a file of its own, or with the other parts of a processor in one."""
    if _PROCESSOR in assets:
        return True
    parts = parse(assets.get(_PROCESSORS, b"{}"), _PROCESSORS)
    return isinstance(parts, dict) and "image_processor" in parts


def _ids(*candidates: int | list[int] | None) -> tuple[int, ...]:
    for given in candidates:
        if given is not None:
            return tuple(given) if isinstance(given, list) else (int(given),)
    return ()


def _template(tokenizer: Any, folder: Path) -> str | None:
    """The processor's own where it has one: a tokenizer's may know no images."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    template: str | None = tokenizer.chat_template
    return template


def _prompt(tokenizer: Any, template: str | None, *, images: bool) -> Prompt:
    if template is None:
        return Prompt(before="", after="")
    plain, one, two = (_rendered(tokenizer, template, count, images) for count in range(3))
    before, _, after = plain.partition(_WORDS)
    if plain.count(_WORDS) != 1:
        raise UnsupportedError(
            "the chat template does not say what the user says, once", where="chat_template"
        )
    if not images:
        return Prompt(before=before, after=after)
    image = one.removeprefix(before).removesuffix(_WORDS + after)
    if one != before + image + _WORDS + after or two != before + image * 2 + _WORDS + after:
        raise UnsupportedError(
            "the chat template does not put images one by one in front of the words",
            where="chat_template",
        )
    return Prompt(before=before, after=after, image=image)


def _rendered(tokenizer: Any, template: str, images: int, parted: bool) -> str:
    """One question with so many images, and what stands before the answer to it."""
    text = {"type": "text", "text": _WORDS}
    content: Any = [{"type": "image"}] * images + [text] if parted else _WORDS
    rendered: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        add_generation_prompt=True,
        tokenize=False,
    )
    return rendered
