"""A family's own processor, as far as it is about images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moe_export.forms import Array
from moe_export.moe.families import ENCLOSING

# What some processors know of patches in place of their image processor.
_SIZES = ("patch_size", "spatial_merge_size")

_NO_TORCHVISION = "its processor needs torchvision, which was not there at the export"


class NoProcessorError(Exception):
    """Why there is no processor to ask; never a user's matter by itself."""


@dataclass(frozen=True)
class Made:
    """What a processor makes of a prompt with one image."""

    ids: list[int]
    arrays: Mapping[str, Array]


class Processor:
    """What the source does with images and the text around them.

    The parts of it that are about video and sound are left out: they need libraries of their own.
    Raises ``NoProcessorError`` where Transformers has none for the family, or cannot make it here.
    """

    def __init__(self, model_type: str, folder: Path, tokenizer: Any) -> None:
        kind = _kind_of(model_type)
        if "torchvision" in getattr(kind, "_backends", ()):  # what stands in for it without that
            raise NoProcessorError(_NO_TORCHVISION)
        known = {"image_processor": _image_processor(folder), "tokenizer": tokenizer}
        words, _ = kind.get_processor_dict(folder, local_files_only=True)
        parts = [known.get(name) for name in kind.get_attributes()]
        with _explained(f"{kind.__name__} cannot be made"):
            self._whole: Any = _without_the_rest(kind).from_args_and_dict(parts, words)

    @property
    def resizes_with_pillow(self) -> bool:
        """Whether its resized pixels are the runtime's to the last bit."""
        return str(self._whole.image_processor.backend) == "pil"

    @property
    def image_token(self) -> str:
        """What its prompts have where an image stands."""
        return str(self._whole.image_token)

    @property
    def settings(self) -> Mapping[str, Any]:
        """By name; those of the whole overrule those of its image processor."""
        images = self._whole.image_processor
        names = dir(type(images)) + list(vars(images))
        own = {name: getattr(images, name) for name in names if not name.startswith("_")}
        whole = {name: x for name, x in vars(self._whole).items() if name in _SIZES}
        return {**own, **whole, **self._overruling}

    def number_of_patches(self, height: int, width: int) -> int:
        """Of an image of this size; without making them, where the processor can tell."""
        images = self._whole.image_processor
        if not hasattr(images, "get_number_of_image_patches"):
            blank = np.zeros((height, width, 3), np.uint8)
            with _explained("its processor fails"):
                return len(images(images=[_picture(blank)], return_tensors="pt")["pixel_values"])
        # Some read what overrules their settings without asking whether there is any.
        made = images.get_number_of_image_patches(height, width, {})
        return math.prod(made) if isinstance(made, tuple) else int(made)

    def written(self, image: Array) -> str:
        """The text that it puts for ``image [H, W, 3]`` where the prompt has its token."""
        how = {"return_tensors": "pt", **self._overruling}
        with _explained("its processor fails"):
            _, texts = self._whole._process_images([_picture(image)], **how)
            return str(texts[0])

    def __call__(self, text: str, image: Array) -> Made:
        pixels = {"images": [_picture(image)], "return_tensors": "pt"}
        with _explained("its processor fails"):
            made = self._whole(text=[text], add_special_tokens=False, **pixels)
        return Made(made["input_ids"][0].tolist(), dict(_arrays(made)))

    @property
    def _overruling(self) -> dict[str, Any]:
        return dict(getattr(type(self._whole), "images_kwargs", {}))


@contextmanager
def _explained(failure: str) -> Iterator[None]:
    """What goes wrong inside becomes a ``NoProcessorError``; libraries' warnings are not ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise NoProcessorError(f"{failure}: {error}") from error


def _kind_of(model_type: str) -> Any:
    """The class for models of ``model_type``, or for those that enclose it."""
    import transformers
    from transformers.models.auto import processing_auto

    kinds: Mapping[str, str] = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
    around = [name for name, each in ENCLOSING.items() if each.family == model_type]
    for name in (model_type, *around):
        kind = kinds.get(name)
        if kind is not None:
            return getattr(transformers, kind)
    raise NoProcessorError(f"Transformers has no processor for {model_type!r}")


def _image_processor(folder: Path) -> Any:
    """The one that resizes with Pillow, where there are two."""
    from importlib.util import find_spec

    from transformers import AutoImageProcessor

    load: Any = AutoImageProcessor.from_pretrained
    try:
        return load(folder, local_files_only=True, trust_remote_code=False, backend="pil")
    except (ImportError, ValueError) as error:
        if find_spec("torchvision") is not None:
            raise
        raise NoProcessorError(_NO_TORCHVISION) from error


def _without_the_rest(kind: Any) -> Any:
    """``kind``, which takes ``None`` for parts that it would otherwise insist on."""
    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})


def _picture(image: Array) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def _arrays(made: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """What a model would be given; numbers that NumPy does not know as float32."""
    for name, value in made.items():
        if hasattr(value, "numpy"):
            exact = value if value.dtype.itemsize > 2 or not value.is_floating_point() else None
            yield name, np.asarray((value.float() if exact is None else exact).numpy())
