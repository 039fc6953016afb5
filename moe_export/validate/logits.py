"""What the bundle takes to come next beside what the eager model does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from moe_export.errors import MoeExportError
from moe_export.forms import (
    ANY,
    MAIN_COMPONENT,
    MODALITIES,
    PADDING,
    TEXT,
    Array,
    GoldenCase,
    LogitsParity,
)
from moe_export.runtime.cache import LOGITS
from moe_export.runtime.generation_config import CONFIG, GenerationConfig

if TYPE_CHECKING:
    from moe_export.runtime.bundle import Bundle


def output_of_logits(bundle: Bundle, component: str) -> tuple[str, str | None] | None:
    """The output of a component that is next-token logits, and the input that is its text.

    A decoder's is called ``logits``; of a model of one graph its ``generation_config.json`` says
    it.  ``None`` where nobody says so.
    """
    names = [info.name for info in bundle.component(component).outputs]
    if component == "decoder":
        return (LOGITS, None) if LOGITS in names else None
    if component != MAIN_COMPONENT or CONFIG not in bundle.manifest.assets:
        return None
    try:
        config = GenerationConfig.from_bundle(bundle)
    except MoeExportError:
        return None  # a file of that name that is of another kind
    output = config.logits_output or next(iter(names), "")
    return (output, config.text_input) if output in names else None


def compare_logits(
    case: GoldenCase, output: str, text: str | None, made: Array
) -> Iterator[LogitsParity]:
    """Divergence of ``made [B, S, V]`` from the eager model's, for each modality of the tokens.

    A distribution is what follows a token, and counts for what that token is of.  ``text`` is the
    input whose tokens the positions are; without it they are the last of the case's own.
    """
    eager = case.outputs[output]
    if eager.ndim != 3 or made.shape != eager.shape or not eager.size:
        return
    codes = _codes(case, text, eager.shape[:2])
    divergence = _divergence(eager, made)
    same = eager.argmax(axis=-1) == made.argmax(axis=-1)
    for code in np.unique(codes[codes != PADDING]):
        of = codes == code
        yield LogitsParity(
            case=case.name,
            modality=MODALITIES[code],
            positions=int(of.sum()),
            mean_divergence=float(divergence[of].mean()),
            largest_divergence=float(divergence[of].max()),
            same_top1=float(same[of].mean()),
        )


def _codes(case: GoldenCase, text: str | None, shape: tuple[int, ...]) -> Array:
    """``[B, S]``: what the tokens are of that the logits follow."""
    known = case.modality
    if text is None:
        known = known[:, -shape[1] :]
    elif text in case.inputs and case.inputs[text].shape == shape:
        return np.full(shape, TEXT, np.uint8)
    return known if known.shape == shape else np.full(shape, ANY, np.uint8)


def _divergence(eager: Array, bundle: Array) -> Array:
    """Kullback-Leibler, ``sum p (log p - log q)`` over the last axis, in nats; never below 0."""
    p, q = _log_softmax(eager), _log_softmax(bundle)
    possible = np.isfinite(p)  # what eager rules out adds nothing, whatever the bundle says of it
    terms = np.exp(p) * np.subtract(p, q, where=possible, out=np.zeros_like(p))
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))


def _log_softmax(logits: Array) -> Array:
    exact = logits.astype(np.float64)
    exact = exact - exact.max(axis=-1, keepdims=True)
    made: Array = exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    return made
