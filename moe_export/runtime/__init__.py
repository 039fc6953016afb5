"""Running bundles: NumPy and ONNX Runtime, neither PyTorch nor the onnx package.

``Bundle`` opens and verifies, ``Session`` maps arrays to arrays.  ``Generator`` maps an image and a
prompt to text where the bundle is one graph, ``Conversation`` where it has a cache; ``generator``
is the one that a bundle needs.
"""

from __future__ import annotations

import os

from moe_export.dialogue import FILE_NAME as _DIALOGUE
from moe_export.errors import UsageError
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.converse import Conversation
from moe_export.runtime.generate import Generator
from moe_export.runtime.session import Session

__all__ = ["Bundle", "Conversation", "Generator", "Session", "generator"]


def generator(
    bundle: Bundle | str | os.PathLike[str],
    *,
    threads: int | None = None,
    max_cache_tokens: int | None = None,
) -> Conversation | Generator:
    """What answers in text with this bundle, with a cache of so many tokens at most."""
    opened = Bundle.of(bundle)
    if opened.asset(_DIALOGUE) is not None:
        return Conversation(opened, threads=threads, max_cache_tokens=max_cache_tokens)
    if max_cache_tokens is not None:
        raise UsageError("the bundle answers without a cache", where=str(opened.path))
    return Generator(opened, threads=threads)
