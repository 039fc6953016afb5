"""How a stored weight becomes numbers again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def dequantize(
    weight: Array,
    dtype: npt.DTypeLike,
    *,
    scales: Array | None = None,
    zeros: Array | None = None,
    block_size: int = 0,
) -> Array:
    """``weight [.., rows, columns]`` as ``dtype``: ``(weight - zeros) * scales``.

    Without ``scales`` the weight is a float of any width and is cast.  With them it holds int8 or
    int4 (one number per element), and ``scales`` and ``zeros`` are ``[.., rows, blocks]``: one for
    each ``block_size`` columns (the last block may be shorter), or, where ``block_size`` is 0, one
    for each row.

    Raises ``ValueError`` where the number of blocks does not fit.
    """
    if scales is None:
        return weight.astype(dtype)
    columns = weight.shape[-1]
    block = block_size or columns
    blocks = -(-columns // block)
    for name, array in (("scales", scales), ("zeros", zeros)):
        if array is not None and array.shape != (*weight.shape[:-1], blocks):
            raise ValueError(f"{name} of a weight {weight.shape} in {blocks} blocks: {array.shape}")
    numbers = weight.astype(dtype)
    if zeros is not None:
        numbers = numbers - _for_columns(zeros.astype(dtype), block, columns)
    return numbers * _for_columns(scales.astype(dtype), block, columns)


def _for_columns(per_block: Array, block: int, columns: int) -> Array:
    return np.repeat(per_block, block, axis=-1)[..., :columns]
