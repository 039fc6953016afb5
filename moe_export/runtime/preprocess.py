"""An image as a model's input, the way the bundle's ``preprocessor_config.json`` says."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from moe_export.errors import UnsupportedError
from moe_export.forms import Array
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.images import MAX_PIXELS, ImageLike, pillow, pixels_of
from moe_export.strict_json import decode, parse

if TYPE_CHECKING:
    from PIL.Image import Image

FILE_NAME = "preprocessor_config.json"

_CHANNELS = {"L": 1, "RGB": 3}


@dataclass(frozen=True, kw_only=True)
class ImageSize:
    """In pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.height * self.width > MAX_PIXELS:
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

    def prepare(self, image: ImageLike) -> Array:
        """A float32 array of ``shape``.

        ``image`` is a file (PNG, JPEG, BMP, GIF or WebP), pixels (uint8 ``[H,W]`` or ``[H,W,3]`` of
        any size) or an array that already is what the model takes (float32 of ``shape``), which is
        returned as it is.
        """
        if (
            isinstance(image, np.ndarray)
            and image.dtype == np.float32
            and image.shape == self.shape
        ):
            return image
        expected = f"give a file, uint8 [H,W] or [H,W,3], or float32 {list(self.shape)}"
        height, width, channels = self.size.height, self.size.width, _CHANNELS[self.mode]
        pixels = pixels_of(image, self._prepared, expected=expected)
        return self._normalize(pixels.reshape(height, width, channels))

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

    def _prepared(self, image: Image) -> Image:
        """Converted and resized: bilinear, averaging where it shrinks."""
        image = image.convert(self.mode)
        size = (self.size.width, self.size.height)
        if image.size != size:
            image = image.resize(size, pillow().Image.Resampling.BILINEAR)
        return image


def refuse_unknown_keys(value: Any, known: set[str], where: str) -> None:
    """Refuse settings that this release would silently ignore."""
    unknown = sorted(value.keys() - known) if isinstance(value, dict) else []
    if unknown:
        raise UnsupportedError(
            f"unknown setting {unknown[0]!r:.80}",
            where=where,
            hint=f"this release knows {', '.join(sorted(known))}",
        )
