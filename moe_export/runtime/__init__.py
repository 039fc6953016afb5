"""Running bundles: NumPy and ONNX Runtime, neither PyTorch nor the onnx package.

``Bundle`` opens and verifies, ``Session`` maps arrays to arrays, ``Generator`` answers prompts
about images in text.  ``Conversation`` is what a generator of several graphs is made of.
"""

from __future__ import annotations

from moe_export.runtime.bundle import Bundle
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.converse import Conversation
from moe_export.runtime.generator import Generator
from moe_export.runtime.options import Options, Request
from moe_export.runtime.session import Session
from moe_export.runtime.speech import Answer
from moe_export.runtime.stream import Stream

__all__ = [
    "Answer",
    "Bundle",
    "Cancellation",
    "Conversation",
    "Generator",
    "Options",
    "Request",
    "Session",
    "Stream",
]
