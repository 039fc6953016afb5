"""Running bundles: NumPy and ONNX Runtime, neither PyTorch nor the onnx package.

``Bundle`` opens and verifies, ``Session`` maps arrays to arrays.  ``Generator`` maps an image and a
prompt to text where the bundle is one graph, ``Conversation`` where it has a cache; ``generator``
is the one that a bundle needs.
"""

from __future__ import annotations

import os

from moe_export.dialogue import FILE_NAME as _DIALOGUE
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.converse import Conversation
from moe_export.runtime.generate import Generator
from moe_export.runtime.session import Session

__all__ = ["Bundle", "Conversation", "Generator", "Session", "generator"]


def generator(
    bundle: Bundle | str | os.PathLike[str], *, threads: int | None = None
) -> Conversation | Generator:
    """What answers in text with this bundle."""
    opened = Bundle.of(bundle)
    kind = Conversation if opened.asset(_DIALOGUE) is not None else Generator
    return kind(opened, threads=threads)
