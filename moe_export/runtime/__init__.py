"""Running bundles: NumPy and ONNX Runtime, neither PyTorch nor the onnx package.

``Bundle`` opens and verifies, ``Session`` maps arrays to arrays, ``Generator`` maps an image and a
prompt to text.
"""

from __future__ import annotations

from moe_export.runtime.bundle import Bundle
from moe_export.runtime.generate import Generator
from moe_export.runtime.session import Session

__all__ = ["Bundle", "Generator", "Session"]
