"""Greedy continuations of the bundle beside those of the eager model, token by token.

Behind a token that differs both go on from different texts, so that the first such token is all
there is to compare.  It is *explained* by rounding where the bundle's choice is so near the eager
model's own that recorded errors of logits may turn them, or where at that step or before it a
token stood so near another set of experts that recorded noise may flip it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from moe_export.errors import UnsafeInputError
from moe_export.forms import Array, Candidate, Continuation, Generation, Golden
from moe_export.runtime.cache import LOGITS, Cache
from moe_export.runtime.greedy import greedy, no_features
from moe_export.runtime.session import Session
from moe_export.runtime.text import TOKENIZER, tokenizer_of
from moe_export.validate.routing import routing_noise
from moe_export.validate.tensors import compare

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from moe_export.runtime.bundle import Bundle

_DECODER, _EMBED, _VISION = "decoder", "embed", "vision"


@dataclass(frozen=True)
class Rounding:
    """What rounding may move, as the golden cases of the decoder show it."""

    logit: float
    """One logit, to either side."""

    margins: Mapping[str, float]
    """By MoE layer, the margin of a token."""

    @classmethod
    def of(cls, golden: Golden) -> Rounding:
        """The largest of all cases."""
        logit, margins = 0.0, dict[str, float]()
        for case in golden.cases:
            if case.component != _DECODER or LOGITS not in case.outputs:
                continue
            eager = case.outputs[LOGITS]
            own = compare(
                case.name,
                LOGITS,
                "output",
                bundle=eager,
                eager=eager,
                reference=case.outputs_reference[LOGITS],
                edge_error=float(case.outputs_edge_error[LOGITS]),
            )
            logit = max(logit, own.tolerance)
            for layer, recorded in case.layers.items():
                margins[layer] = max(margins.get(layer, 0.0), routing_noise(recorded))
        return cls(logit, margins)


def compare_generation(bundle: Bundle, golden: Golden) -> list[Generation]:
    """Each recorded continuation beside the bundle's own, of as many tokens.

    Raises ``UnsafeInputError`` where the bundle has no components to say them.
    """
    if not golden.continuations:
        return []
    _require_components(bundle, golden)
    rounding, text = Rounding.of(golden), _texts(bundle)
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(Session(bundle, component=name))
            for name in (_DECODER, _EMBED, _VISION)
            if name in bundle.manifest.components
        }
        return [_compared(opened, each, rounding, text) for each in golden.continuations]


def _require_components(bundle: Bundle, golden: Golden) -> None:
    needed = {_DECODER, _EMBED}
    needed |= {_VISION for each in golden.continuations if each.asked.images}
    missing = sorted(needed - bundle.manifest.components.keys())
    if missing:
        raise UnsafeInputError(
            f"the golden tensors hold a continuation, and the bundle has no {missing[0]!r}",
            where=str(bundle.path),
        )


def _compared(
    sessions: Mapping[str, Session],
    eager: Continuation,
    rounding: Rounding,
    text: Callable[[int], str | None],
) -> Generation:
    said = eager.tokens
    made = Generation(case=eager.name, steps=len(said), agreed=len(said))
    for step, (token, logits) in enumerate(islice(_said(sessions, eager), len(said))):
        if token == said[step]:
            continue
        return Generation(
            case=eager.name,
            steps=len(said),
            agreed=step,
            eager=_candidates(eager.likeliest[step], eager.log_probabilities[step], text),
            bundle=_likeliest(logits, len(eager.likeliest[step]), text),
            explained=explained(eager, step, token, rounding),
        )
    return made


def explained(eager: Continuation, step: int, token: int, rounding: Rounding) -> bool:
    """Whether rounding may have made the bundle say ``token`` where eager says another."""
    for layer, margins in eager.margins.items():
        if (margins[: step + 1] <= rounding.margins.get(layer, 0.0)).any():
            return True
    (place,) = np.nonzero(eager.likeliest[step] == token)
    if not place.size:
        return False
    logs = eager.log_probabilities[step]
    # Each of the two logits may move, one up and one down; their difference is the logarithms'.
    return bool(logs[0] - logs[place[0]] <= 2 * rounding.logit)


def _said(sessions: Mapping[str, Session], eager: Continuation) -> Iterator[tuple[int, Array]]:
    """The bundle's tokens behind the prompt, each with its logits ``[V]``; endless."""
    asked, embed = eager.asked, sessions[_EMBED]
    seen = dict(asked.images)
    return greedy(
        embed,
        Cache(sessions[_DECODER]),
        ids=asked.ids,
        features=sessions[_VISION].run(seen) if seen else no_features(embed),
        positions=asked.positions,
    )


def _likeliest(
    logits: Array, count: int, text: Callable[[int], str | None]
) -> tuple[Candidate, ...]:
    exact = logits.astype(np.float64)
    order = np.argsort(-exact, kind="stable")[:count]
    exact = exact - exact.max()
    return _candidates(order, (exact - np.log(np.exp(exact).sum()))[order], text)


def _candidates(
    tokens: Array, logs: Array, text: Callable[[int], str | None]
) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(token=int(token), text=text(int(token)), probability=float(np.exp(log)))
        for token, log in zip(tokens, logs, strict=True)
    )


def _texts(bundle: Bundle) -> Callable[[int], str | None]:
    """The text of a token, where the bundle has a tokenizer and this machine reads it."""
    if TOKENIZER not in bundle.manifest.assets or find_spec("tokenizers") is None:
        return lambda token: None
    tokenizer = tokenizer_of(bundle)
    return partial(_text, tokenizer)


def _text(tokenizer: Tokenizer, token: int) -> str:
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    return text
