"""Tokens that only hold places for features, which some sources embed as another token.

A model may write one in an answer, where there is no feature for it.  What its embedding is then is
asked of the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from moe_export.errors import RewriteError
from moe_export.load.pretrained.parts import text_model_of
from moe_export.load.usercode import run_user_code

_SPECIAL = ("token_id", "token_index")


class _SeenError(Exception):
    """The embeddings were seen, and the layers behind them need not run."""


def special_tokens(config: Any) -> list[int]:
    """The ids that a configuration gives names to, in order."""
    named = config.to_dict().items()
    return sorted({i for name, i in named if name.endswith(_SPECIAL) and isinstance(i, int)})


def stand_ins(model: Any, given: Mapping[str, Tensor]) -> dict[int, int]:
    """By id, each special token that ``model`` embeds as another, and which that is.

    ``given`` holds such tokens as ``input_ids [1, S]``, and what else the model takes with them.
    Raises ``RewriteError`` for a token that it embeds as none of its table.
    """
    text_model, where = text_model_of(model), type(model).__name__
    seen: list[Tensor | None] = []

    def record(_: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        seen.append(kwargs.get("inputs_embeds"))
        raise _SeenError

    def embed() -> None:
        with torch.no_grad(), suppress(_SeenError):
            model(**given)

    handle = text_model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        run_user_code(embed, failure="the model does not run on text", where=where)
    finally:
        handle.remove()
    if seen[0] is None:
        return {}
    ids, table = given["input_ids"], text_model.get_input_embeddings()
    with torch.no_grad():
        changed = (table(ids) != seen[0]).any(-1)[0]
        return {
            int(token): _token_of(row, table, model.config, where)
            for token, row in zip(ids[0][changed], seen[0][0, changed], strict=True)
        }


def _token_of(row: Tensor, table: Any, config: Any, where: str) -> int:
    """Whose embedding ``row`` is: the padding's, or that of the first token."""
    for holder in (config.get_text_config(), config):
        for token in (getattr(holder, "pad_token_id", None), 0):
            if token is not None and torch.equal(table(torch.tensor(token)), row):
                return int(token)
    raise RewriteError(
        "the model embeds a special token as none that is known",
        where=where,
        hint="this family needs a record of its own; please report it",
    )
