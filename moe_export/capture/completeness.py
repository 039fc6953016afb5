"""Prove that nothing was lost: every source tensor is in the bundle or listed with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moe_export.capture.weights import source_tensors
from moe_export.errors import CompletenessError
from moe_export.forms import BlockRecord, LoadedModel, Weight

_NEVER_READ = "forward() never reads it"


class Reads(TorchDispatchMode):
    """Which tensors of a module a run reads."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._memory: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            self._memory.setdefault(tensor.untyped_storage()._cdata, []).append(name)
        self.names: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.names.update(self._memory.get(leaf.untyped_storage()._cdata, ()))
        return func(*args, **(kwargs or {}))


def names_read(loaded: LoadedModel) -> set[str]:
    """Source tensors that one eager run on the example reads."""
    reads = Reads(source_tensors(loaded.module))
    with torch.no_grad(), reads:
        loaded.module(**loaded.example_inputs)
    return reads.names


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
