"""An image as a model's input, the way the bundle's ``preprocessor_config.json`` says."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from moe_export.errors import (
    MissingEnvironmentError,
    UnsafeInputError,
    UnsupportedError,
    UsageError,
)
from moe_export.forms import Array
from moe_export.runtime.bundle import Bundle
from moe_export.strict_json import decode, parse

if TYPE_CHECKING:
    from PIL.Image import Image

FILE_NAME = "preprocessor_config.json"

# Formats whose decoders are small and much attacked already; Pillow knows dozens more.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
# 64 megapixels, 192 MiB as RGB: above any photograph a model is asked about, below a bomb.
_MAX_PIXELS = 2**26

_CHANNELS = {"L": 1, "RGB": 3}


@dataclass(frozen=True, kw_only=True)
class ImageSize:
    """In pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.height * self.width > _MAX_PIXELS:
            raise ValueError(f"an image of {self.height} x {self.width} pixels")


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessor:
    """Convert to ``mode``, resize, rescale, normalize, lay out; in this order.

    ``y = (pixel * rescale_factor - image_mean) / image_std`` by channel, in float32.
    """

    image_input: str
    """The graph's input that takes the image."""

    size: ImageSize
    mode: Literal["L", "RGB"] = "RGB"
    rescale_factor: float = 1 / 255
    layout: Literal["HW", "CHW", "HWC"] = "CHW"
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        channels = _CHANNELS[self.mode]
        if self.layout == "HW" and channels != 1:
            raise ValueError(f"layout 'HW' has no axis for the {channels} channels of {self.mode}")
        for name, values in (("image_mean", self.image_mean), ("image_std", self.image_std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"{name} has {len(values)} numbers for {channels} channels")
        if self.image_std is not None and 0.0 in self.image_std:
            raise ValueError("image_std holds a zero")

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self | None:
        """The bundle's own, or ``None`` where it takes no images."""
        content = bundle.asset(FILE_NAME)
        if content is None:
            return None
        where = str(bundle.path / FILE_NAME)
        value = parse(content, where)
        refuse_unknown_keys(value, {field.name for field in fields(cls)}, where)
        return decode(cls, value, where, defaults=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what ``prepare`` returns: one image, without a batch axis."""
        height, width, channels = self.size.height, self.size.width, _CHANNELS[self.mode]
        by_layout = {
            "HW": (height, width),
            "CHW": (channels, height, width),
            "HWC": (height, width, channels),
        }
        return by_layout[self.layout]

    def prepare(self, image: str | os.PathLike[str] | Array) -> Array:
        """A float32 array of ``shape``.

        ``image`` is a file (PNG, JPEG, BMP, GIF or WebP), pixels (uint8 ``[H,W]`` or ``[H,W,3]`` of
        any size) or an array that already is what the model takes (float32 of ``shape``), which is
        returned as it is.
        """
        if isinstance(image, str | os.PathLike):
            return self._normalize(self._read(Path(image)))
        array = np.asarray(image)
        if array.dtype == np.float32 and array.shape == self.shape:
            return array
        if array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] == (3,)) and array.size:
            return self._normalize(self._pixels(_pillow().Image.fromarray(array)))
        raise UsageError(
            f"cannot take an image of {array.dtype} {list(array.shape)}",
            hint=f"give a file, uint8 [H,W] or [H,W,3], or float32 {list(self.shape)}",
        )

    def _normalize(self, pixels: Array) -> Array:
        """``pixels [H,W,C]`` uint8 as numbers in the model's layout."""
        values = pixels.astype(np.float32) * np.float32(self.rescale_factor)
        if self.image_mean is not None:
            values -= np.asarray(self.image_mean, np.float32)
        if self.image_std is not None:
            values /= np.asarray(self.image_std, np.float32)
        if self.layout == "CHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values.reshape(self.shape))

    def _read(self, path: Path) -> Array:
        """The pixels of a file, whose bytes are trusted with nothing."""
        Image = _pillow().Image  # noqa: N806 - its own name
        if not path.is_file():
            raise UsageError("there is no such image", where=str(path))
        try:
            with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
                _refuse_bomb(image, path)
                return self._pixels(image)
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

    def _pixels(self, image: Image) -> Array:
        """Converted and resized: uint8 ``[H,W,C]``.  Bilinear, averaging where it shrinks."""
        image = image.convert(self.mode)
        size = (self.size.width, self.size.height)
        if image.size != size:
            image = image.resize(size, _pillow().Image.Resampling.BILINEAR)
        return np.asarray(image, np.uint8).reshape(size[1], size[0], _CHANNELS[self.mode])


def refuse_unknown_keys(value: Any, known: set[str], where: str) -> None:
    """Refuse settings that this release would silently ignore."""
    unknown = sorted(value.keys() - known) if isinstance(value, dict) else []
    if unknown:
        raise UnsupportedError(
            f"unknown setting {unknown[0]!r:.80}",
            where=where,
            hint=f"this release knows {', '.join(sorted(known))}",
        )


def _refuse_bomb(image: Image, path: Path) -> None:
    width, height = image.size
    if width * height > _MAX_PIXELS:
        raise UnsafeInputError(
            f"the image is too large: {width} x {height} pixels, at most {_MAX_PIXELS} are read",
            where=str(path),
        )


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingEnvironmentError(
            f"images need Pillow: {error}", hint="pip install pillow"
        ) from error
    return PIL
