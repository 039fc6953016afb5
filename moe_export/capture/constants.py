"""Values of a graph that are known before it runs."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir


def numbers_of(value: ir.Value | None) -> Any:
    """The numbers of a constant, as an array; ``None`` for any other value."""
    constant = None if value is None else ir.convenience.get_const_tensor(value)
    return None if constant is None else constant.numpy()
