"""Features of images that were seen before, so that the same one is not looked at twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from moe_export.errors import UnsafeInputError, UsageError
from moe_export.forms import Array
from moe_export.manifest import TensorInfo
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.seen import Seen, side_by_side
from moe_export.runtime.session import Session

EMBEDS = "image_embeds"


class Features:
    """What ``vision`` makes of images, one by one; the latest ``max_bytes`` of it are kept.

    An image is looked at alone, so that its features are the same to the bit whatever images stand
    beside it.  Threads may share it; two that ask for a new image at once both look.
    """

    def __init__(self, vision: Session, embed: Session, *, max_bytes: int) -> None:
        if max_bytes < 0:
            raise UsageError(f"max_image_bytes must be 0 or more, got {max_bytes}")
        self._vision, self._max_bytes = vision, max_bytes
        self._axes = {info.name: _axis(info) for info in embed.inputs if info.name != "input_ids"}
        if EMBEDS not in self._axes or not self._axes.keys() <= set(vision.output_names):
            raise UnsafeInputError(
                "vision does not give what embed takes", where=str(vision.bundle.path)
            )
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, Mapping[str, Array]] = OrderedDict()
        self._bytes = 0

    def of(self, images: Sequence[Seen], cancel: Cancellation | None = None) -> dict[str, Array]:
        """The features of ``images``, one or more, behind one another, by the outputs' names.

        Raises ``UnsafeInputError`` where there are more or fewer than an image says, ``Cancelled``,
        and what a session's run raises.
        """
        made = [self._one(image, cancel) for image in images]
        return {
            name: np.concatenate([each[name] for each in made], axis=axis)
            for name, axis in self._axes.items()
        }

    def _one(self, image: Seen, cancel: Cancellation | None) -> Mapping[str, Array]:
        with self._lock:
            known = self._kept.get(image.digest)
            if known is not None:
                self._kept.move_to_end(image.digest)
                return known
        made = self._vision.run(side_by_side([image]), outputs=list(self._axes), cancel=cancel)
        rows = made[EMBEDS].shape[self._axes[EMBEDS]]
        if rows != image.features:
            raise UnsafeInputError(
                f"vision makes {rows} features of an image, and its text holds {image.features}",
                where=str(self._vision.bundle.path),
            )
        self._keep(image.digest, made)
        return made

    def _keep(self, digest: bytes, made: Mapping[str, Array]) -> None:
        size = _nbytes(made)
        if size > self._max_bytes:
            return
        with self._lock:
            if digest not in self._kept:
                self._kept[digest] = made
                self._bytes += size
            while self._bytes > self._max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _nbytes(oldest)


def _nbytes(arrays: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _axis(info: TensorInfo) -> int:
    """Along which features are counted: the only axis that varies."""
    axes = [axis for axis, size in enumerate(info.shape) if not isinstance(size, int)]
    if len(axes) != 1:
        raise UnsafeInputError(f"features that are not counted along one axis: {info}")
    return axes[0]
