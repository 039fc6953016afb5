"""Images as pixels: files whose bytes are trusted with nothing, and arrays."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_export.errors import MissingEnvironmentError, UnsafeInputError, UsageError
from moe_export.forms import Array

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike = str | os.PathLike[str] | Array

# Formats whose decoders are small and much attacked already; Pillow knows dozens more.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")

MAX_PIXELS = 2**26
"""64 megapixels, 192 MiB as RGB: above any photograph a model is asked about, below a bomb."""


def pixels_of(image: ImageLike, prepare: Callable[[Image], Image], *, expected: str) -> Array:
    """``prepare`` of an image file (PNG, JPEG, BMP, GIF or WebP) or of uint8 pixels, as uint8.

    Pixels are ``[H,W]`` or ``[H,W,3]`` of any size.  Raises ``UsageError`` for anything else, with
    what is ``expected``, and ``UnsafeInputError`` for a file that is no such image or too large.
    """
    if isinstance(image, str | os.PathLike):
        return _from_file(Path(image), prepare)
    array = np.asarray(image)
    if array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] == (3,)) and array.size:
        return np.asarray(prepare(pillow().Image.fromarray(array)), np.uint8)
    raise UsageError(f"cannot take an image of {array.dtype} {list(array.shape)}", hint=expected)


def pillow() -> Any:
    """The ``PIL`` package with ``Image`` in it."""
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingEnvironmentError(
            f"images need Pillow: {error}", hint="pip install pillow"
        ) from error
    return PIL


def _from_file(path: Path, prepare: Callable[[Image], Image]) -> Array:
    Image = pillow().Image  # noqa: N806 - its own name
    if not path.is_file():
        raise UsageError("there is no such image", where=str(path))
    try:
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            _refuse_bomb(image, path)
            return np.asarray(prepare(image), np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnsafeInputError(f"the image is too large: {error}", where=str(path)) from error
    except PermissionError as error:
        raise UsageError("the image may not be read", where=str(path)) from error
    # What Pillow's decoders raise for bytes that are not what they claim to be.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        raise UnsafeInputError(
            f"not an image that can be read: {error}",
            where=str(path),
            hint=f"the formats are {', '.join(_FORMATS)}",
        ) from error


def _refuse_bomb(image: Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnsafeInputError(
            f"the image is too large: {width} x {height} pixels, at most {MAX_PIXELS} are read",
            where=str(path),
        )
