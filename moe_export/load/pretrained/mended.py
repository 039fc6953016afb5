"""A fault of Transformers that keeps a model from running, mended from outside."""

from __future__ import annotations

from typing import Any

_FIELD = "image_outputs"


def mend(model: Any) -> None:
    """Let ``model`` run where its ``forward`` reads a field that its language model never gives.

    ``Llama4ForConditionalGeneration`` of Transformers 5.24.0 passes ``outputs.image_outputs`` on,
    and stops, with images and without, because there is no such field.
    """
    inner = getattr(model, "language_model", None)
    if inner is not None and hasattr(inner, "lm_head"):
        inner.register_forward_hook(_with_field)


def _with_field(_: Any, __: Any, output: Any) -> None:
    if not hasattr(output, _FIELD):
        setattr(output, _FIELD, None)
