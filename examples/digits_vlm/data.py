"""The images: 1,797 real handwritten digits of 8x8 pixels that ship with scikit-learn.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

Images = npt.NDArray[np.float32]

BRIGHTEST = 16.0  # a pixel counts the inked dots of a 4x4 cell of the scanned bitmap
SPLIT_SEED = 20240  # fixed: every seed of a training run is judged on the same images


@dataclass(frozen=True, kw_only=True)
class Digits:
    """``images [N, 8, 8]`` in 0..1, bright ink on dark ground, and the digit each one shows.

    ``indices [N]`` are the rows of ``sklearn.datasets.load_digits()``.
    """

    images: Images
    labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def split_digits(held_out_share: float = 0.2) -> tuple[Digits, Digits]:
    """All digits as (training part, held-out part), the same split on every call.

    Each digit 0..9 gives ``held_out_share`` of its images, rounded, to the held-out part.
    """
    source = load_digits()
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(source.target), dtype=bool)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(source.target == digit))
        held_out[rows[: round(held_out_share * len(rows))]] = True

    def part(chosen: npt.NDArray[np.bool_]) -> Digits:
        return Digits(
            images=(source.images[chosen] / BRIGHTEST).astype(np.float32),
            labels=source.target[chosen].astype(np.int64),
            indices=np.flatnonzero(chosen),
        )

    return part(~held_out), part(held_out)


def shift_images(images: Images, share: float, rng: np.random.Generator) -> Images:
    """A copy with ``share`` of the images moved by -1, 0 or 1 pixel along each axis.

    Pixels that come in from outside are dark.
    """
    count, height, width = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    top, left = np.where(rng.random(count) < share, rng.integers(0, 3, size=(2, count)), 1)
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
