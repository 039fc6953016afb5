"""The positions of tokens, for models that count them in other ways than one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moe_export.errors import UsageError
from moe_export.forms import Array


def plain_positions(start: int, count: int) -> Array:
    """``[1, count]``, one after the other."""
    return np.arange(start, start + count, dtype=np.int64)[np.newaxis]


def mrope_positions(
    token_ids: Sequence[int],
    image_token: int,
    grids: Sequence[Array],
    merge: int,
    *,
    newline: bool = False,
) -> Array:
    """``[3, 1, S]``: time, height and width (Qwen2-VL, multimodal rotary position embedding).

    Text counts on all three alike.  The features of an image stand on its grid, all at the time and
    from the height and width where the image begins; text behind it goes on after the longest side.
    With ``newline`` a row has one feature more than the grid.
    Raises ``UsageError`` for more images than ``grids``.
    """
    rows: list[Array] = []
    start = place = 0
    images = iter(grids)
    while place < len(token_ids):
        if token_ids[place] != image_token:
            rows.append(np.full((3, 1), start, np.int64))
            start, place = start + 1, place + 1
            continue
        grid = next(images, None)
        if grid is None:
            raise UsageError(f"the prompt holds features of more images than {len(grids)}")
        time, height, width = (int(size) for size in grid)
        sizes = (time, height // merge, width // merge + newline)
        rows.append(np.indices(sizes).reshape(3, -1) + start)
        start += max(sizes[1:])
        place += sizes[0] * sizes[1] * sizes[2]
    made: Array = np.concatenate(rows, axis=1)[:, np.newaxis]
    return made
