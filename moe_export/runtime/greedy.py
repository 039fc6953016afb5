"""Runs behind a cache: the prompt once, then each token alone; greedily, if nobody chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from moe_export.forms import Array
from moe_export.manifest import TensorInfo
from moe_export.runtime.cache import Cache
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.session import Session


def greedy(
    embed: Session,
    cache: Cache,
    *,
    ids: Array,
    features: Mapping[str, Array],
    positions: Array,
) -> Iterator[tuple[int, Array]]:
    """Each next token and its logits ``[V]``: it is the highest, the lower id where two are equal.

    ``ids [1, S]`` are the prompt's, ``positions [..., 1, S]`` theirs and ``features`` those of its
    images, by the names that ``embed`` takes beside ids.  Endless: it is the caller's to stop.
    Logits are valid until the next token.
    """
    nothing = no_features(embed)
    following = int(positions.max()) + 1
    while True:
        logits = step(embed, cache, ids=ids, features=features, positions=positions)[0]
        token = int(logits.argmax())
        yield token, logits
        ids, features = np.array([[token]], np.int64), nothing
        positions = np.full((*positions.shape[:-1], 1), following, np.int64)
        following += 1


def step(
    embed: Session,
    cache: Cache,
    *,
    ids: Array,
    features: Mapping[str, Array],
    positions: Array,
    cancel: Cancellation | None = None,
) -> Array:
    """The logits ``[B, V]`` behind ``ids [B, S]`` behind what the cache holds; until the next."""
    embedded = embed.run({"input_ids": ids, **features}, cancel=cancel)
    return cache.run({**embedded, "position_ids": positions}, cancel=cancel)


def no_features(embed: Session) -> dict[str, Array]:
    """What ``embed`` takes beside text where there is no image: no rows."""
    taken = [info for info in embed.inputs if info.name != "input_ids"]
    return {info.name: _no_rows(info) for info in taken}


def _no_rows(info: TensorInfo) -> Array:
    """Nothing along the axes that vary."""
    shape = [size if isinstance(size, int) else 0 for size in info.shape]
    return np.zeros(shape, info.dtype)
