"""The layout of a checkpoint: one dictionary in a ``torch.save`` file.  See docs/checkpoints.md."""

from __future__ import annotations

import re

import torch

FORMAT = "moe-export checkpoint"
VERSION = 1

HEADER = ("format", "version", "factory", "config", "dynamic_shapes")
SECTIONS = ("example_inputs", "state_dict", "assets")

DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
"""The dtypes that a checkpoint may hold, by name."""

_ASSET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


def is_asset_name(name: object) -> bool:
    """Whether ``name`` is a plain relative path: at most four harmless segments, no ``..``."""
    if not isinstance(name, str) or name.count("/") > 3:
        return False
    return all(_ASSET.fullmatch(segment) for segment in name.split("/"))
