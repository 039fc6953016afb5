"""How a Transformers model is talked to, found out from its tokenizer and processor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moe_export.dialogue import FILE_NAME, Dialogue, PatchRecipe, Prompt, TileRecipe
from moe_export.errors import UnsupportedError
from moe_export.load.pretrained.directory import Pretrained, image_settings
from moe_export.load.pretrained.processors import NoProcessorError, Processor
from moe_export.load.pretrained.recipes import Recipe, recipe_of
from moe_export.load.pretrained.sameness import WORDS, Question, require_sameness
from moe_export.load.usercode import run_user_code
from moe_export.runtime.text import TOKENIZER as _TOKENIZER
from moe_export.runtime.text import parse_tokenizer
from moe_export.strict_json import encode, render

_MAX_NEW_TOKENS = 256  # where the model's own configuration names none


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
    written = _without(encode(made), "tiles", "crops")
    for name in ("newline", "between_rows", "zoom"):
        written = _without(written, "patches", name)
    return {FILE_NAME: render(written).encode()}


def _without(written: Any, outer: str, inner: str) -> Any:
    """The text's form without a field that few have, so that others read as they always did."""
    holder = written[outer]
    if holder is not None and not holder[inner]:
        del holder[inner]
    return written


@dataclass(frozen=True)
class _Sight:
    """What is done with images and how a prompt with them goes, or why nothing is."""

    recipe: Recipe | None = None
    prompt: Prompt | None = None
    reason: str | None = None


def _dialogue(source: Pretrained, folder: Path) -> Dialogue:
    from transformers import AutoTokenizer

    model: Any = source.model
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    template = _template(tokenizer, folder)
    settings, text = model.generation_config, model.config.get_text_config()
    sight = _sight(source, folder, tokenizer, template)
    recipe = sight.recipe
    return Dialogue(
        positions="plain" if source.family is None else source.family.positions,
        eos_token_ids=_ids(settings.eos_token_id, text.eos_token_id, tokenizer.eos_token_id),
        max_length=int(text.max_position_embeddings),
        max_new_tokens=int(settings.max_new_tokens or _MAX_NEW_TOKENS),
        prompt=sight.prompt or _prompt(tokenizer, template),
        patches=recipe if isinstance(recipe, PatchRecipe) else None,
        tiles=recipe if isinstance(recipe, TileRecipe) else None,
        no_images=sight.reason,
    )


def _sight(source: Pretrained, folder: Path, tokenizer: Any, template: str | None) -> _Sight:
    """How the runtime makes images ready, shown to be how the source's processor does."""
    if source.family is None:
        return _Sight()
    if template is None:
        return _Sight(reason="the model has no chat template")
    if image_settings(source.assets) is None:
        return _Sight(reason="the model came without an image processor")
    config = source.model.config
    try:
        processor = Processor(str(config.model_type), folder, tokenizer)
        recipe, features = recipe_of(
            source.family.images, config, tokenizer, processor, source.crop_side
        )
        prompt = _prompt(tokenizer, template, images=True)
        shown = prompt.image or ""
        if shown.count(processor.image_token) != 1:
            raise NoProcessorError(
                f"the chat template does not have {processor.image_token!r} once for an image"
            )
        prompt = replace(prompt, image=shown.replace(processor.image_token, features))
        asked = Question(_rendered(tokenizer, template, 1, parted=True), prompt)
        require_sameness(recipe, asked, processor, tokenizer.backend_tokenizer)
    except NoProcessorError as error:
        return _Sight(reason=str(error))
    return _Sight(recipe, prompt)


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


def _prompt(tokenizer: Any, template: str | None, *, images: bool = False) -> Prompt:
    if template is None:
        return Prompt(before="", after="")
    plain, one, two = (_rendered(tokenizer, template, count, images) for count in range(3))
    before, _, after = plain.partition(WORDS)
    if plain.count(WORDS) != 1:
        raise UnsupportedError(
            "the chat template does not say what the user says, once", where="chat_template"
        )
    if not images:
        return Prompt(before=before, after=after)
    image = one.removeprefix(before).removesuffix(WORDS + after)
    if one != before + image + WORDS + after or two != before + image * 2 + WORDS + after:
        raise UnsupportedError(
            "the chat template does not put images one by one in front of the words",
            where="chat_template",
        )
    return Prompt(before=before, after=after, image=image)


def _rendered(tokenizer: Any, template: str, images: int, parted: bool) -> str:
    """One question with so many images, and what stands before the answer to it."""
    text = {"type": "text", "text": WORDS}
    content: Any = [{"type": "image"}] * images + [text] if parted else WORDS
    rendered: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        add_generation_prompt=True,
        tokenize=False,
    )
    return rendered
