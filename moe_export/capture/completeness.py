"""Prove that nothing was lost: every source tensor is in the bundle or listed with the reason."""

from __future__ import annotations

from collections.abc import Iterable

from moe_export.capture.weights import source_tensors
from moe_export.errors import CompletenessError
from moe_export.forms import BlockRecord, LoadedModel, Weight

_NEVER_READ = "forward() never reads it"


def unused_tensors(
    loaded: LoadedModel,
    weights: Iterable[Weight],
    blocks: tuple[BlockRecord, ...],
    read: set[str],
) -> dict[str, str]:
    """Source tensors that no graph holds, each with the reason.

    Raises ``CompletenessError`` where a missing tensor is read by the eager model, or belongs to
    a mixture-of-experts block: an expert that one example did not visit is not unused.
    """
    held = {name for weight in weights for name in weight.sources}
    reasons: dict[str, str] = {}
    for name, tensor in source_tensors(loaded.module).items():
        if name in held:
            continue
        block = next((b for b in blocks if name.startswith(f"{b.path}.") or not b.path), None)
        if name in read or (block is not None and tensor.is_floating_point()):
            raise CompletenessError(
                "a tensor that the model uses would be missing from the bundle",
                where=name if block is None else f"{name} of block {block.path or 'the model'}",
                hint="this export would lose a part of the model; please report it",
            )
        reasons[name] = _NEVER_READ
    return reasons
