"""Greedy decoding behind a cache: the prompt runs once, then each token alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from moe_export.forms import Array
from moe_export.manifest import TensorInfo
from moe_export.runtime.session import Session

PAST, PRESENT = "past_", "present_"
"""How the names of a cache begin, as it goes into a decoder and as it comes out."""


def greedy(
    embed: Session,
    decoder: Session,
    *,
    ids: Array,
    features: Mapping[str, Array],
    positions: Array,
) -> Iterator[tuple[int, Array]]:
    """Each next token and its logits ``[V]``: it is the highest, the lower id where two are equal.

    ``ids [1, S]`` are the prompt's, ``positions [..., 1, S]`` theirs and ``features`` those of its
    images, by the names that ``embed`` takes beside ids.  Endless: it is the caller's to stop.
    """
    nothing = no_features(embed)
    following = int(positions.max()) + 1
    cache = {
        info.name: _no_rows(info, batch=1) for info in decoder.inputs if info.name.startswith(PAST)
    }
    length = 0
    while True:
        length += ids.shape[1]
        made = decoder.run(
            {
                **embed.run({"input_ids": ids, **features}),
                "position_ids": positions,
                "attention_mask": np.ones((1, length), np.int64),
                **cache,
            }
        )
        logits = made["logits"][0, -1]
        token = int(logits.argmax())
        yield token, logits
        cache = {name: made[PRESENT + name.removeprefix(PAST)] for name in cache}
        ids, features = np.array([[token]], np.int64), nothing
        positions = np.full((*positions.shape[:-1], 1), following, np.int64)
        following += 1


def no_features(embed: Session) -> dict[str, Array]:
    """What ``embed`` takes beside text where there is no image: no rows."""
    taken = [info for info in embed.inputs if info.name != "input_ids"]
    return {info.name: _no_rows(info) for info in taken}


def _no_rows(info: TensorInfo, *, batch: int = 0) -> Array:
    """Nothing along the axes that vary, but for a batch in front."""
    shape = [size if isinstance(size, int) else 0 for size in info.shape]
    return np.zeros([batch, *shape[1:]] if batch else shape, info.dtype)
