"""What differs between families of vision-language models, as data.

A family is what a Transformers ``config.json`` calls ``model_type``.  That a record is right for a
model is shown when it is loaded: the parts are run beside the whole.  Facts from the families' own
code in Transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the parts of one family are put together."""

    positions: Literal["mrope"]
    """``mrope``: three positions for each token, time, height and width (Qwen2-VL, section 2.1)."""

    patches: Literal["packed"]
    """``packed``: the patches of all images in one axis, with a grid for each image."""


FAMILIES: Mapping[str, Family] = {
    "qwen3_vl_moe": Family(positions="mrope", patches="packed"),
}
"""By ``model_type``."""
