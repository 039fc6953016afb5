"""Compile PyTorch mixture-of-experts vision-language models into verified bundles.

The names below are imported on first use, so that ``import moe_export`` needs neither PyTorch nor
ONNX: a machine that only runs bundles has neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moe_export.errors import (
    CaptureError,
    CompletenessError,
    DiskFullError,
    MemoryBudgetError,
    MissingEnvironmentError,
    MoeExportError,
    ParityError,
    RewriteError,
    UnsafeInputError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from moe_export.api import export
    from moe_export.load.checkpoint import save_checkpoint
    from moe_export.load.factory import ModelSource, model_factory
    from moe_export.moe.layer import ExpertsSpec, RouterSpec
    from moe_export.rewrite.register import BlockDescription, Join, Stack, register_block
    from moe_export.runtime.bundle import Bundle
    from moe_export.runtime.cancel import Cancellation
    from moe_export.runtime.generator import Generator
    from moe_export.runtime.options import Options, Request
    from moe_export.runtime.session import Session
    from moe_export.runtime.speech import Answer

__version__ = "0.1.0"

_HOMES = {
    "Answer": "moe_export.runtime.speech",
    "BlockDescription": "moe_export.rewrite.register",
    "Bundle": "moe_export.runtime.bundle",
    "Cancellation": "moe_export.runtime.cancel",
    "ExpertsSpec": "moe_export.moe.layer",
    "Generator": "moe_export.runtime.generator",
    "Join": "moe_export.rewrite.register",
    "ModelSource": "moe_export.load.factory",
    "Options": "moe_export.runtime.options",
    "Request": "moe_export.runtime.options",
    "RouterSpec": "moe_export.moe.layer",
    "Session": "moe_export.runtime.session",
    "Stack": "moe_export.rewrite.register",
    "export": "moe_export.api",
    "model_factory": "moe_export.load.factory",
    "register_block": "moe_export.rewrite.register",
    "save_checkpoint": "moe_export.load.checkpoint",
}

__all__ = [
    "Answer",
    "BlockDescription",
    "Bundle",
    "Cancellation",
    "CaptureError",
    "CompletenessError",
    "DiskFullError",
    "ExpertsSpec",
    "Generator",
    "Join",
    "MemoryBudgetError",
    "MissingEnvironmentError",
    "ModelSource",
    "MoeExportError",
    "Options",
    "ParityError",
    "Request",
    "RewriteError",
    "RouterSpec",
    "Session",
    "Stack",
    "UnsafeInputError",
    "UnsupportedError",
    "UsageError",
    "export",
    "model_factory",
    "register_block",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moe_export' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
