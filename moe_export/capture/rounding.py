"""What a precision costs: the rounded eager model beside the eager model as it was.

For information.  Validation compares a bundle with the rounded eager model, because only that can
be told from a defect; whether the cost is worth its speed is for the model's author to judge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moe_export.capture.watch import array_of, run_watched
from moe_export.forms import Golden, MarkedModel, OutputCost, RoundingCost

Array = npt.NDArray[Any]
Inputs = Mapping[str, Tensor]


class OwnRun:
    """A run of the eager model as it was: its outputs, and the experts it chose."""

    def __init__(self, model: MarkedModel, inputs: Inputs) -> None:
        self._model, self._inputs = model, inputs
        self.outputs: list[Tensor] = []
        self.chosen: dict[str, Array] = {}
        """``topk_ids [T, K]`` by MoE layer."""

    def run(self) -> None:
        """Run it."""
        paths = [block.path for block in self._model.proven]
        self.outputs, calls = run_watched(self._model.loaded.module, self._inputs, paths)
        for each, (x, _) in calls.items():
            with torch.no_grad():
                seen = self._model.layers[each.path].watch(x.reshape(-1, x.shape[-1]))
            self.chosen[each.name] = array_of(seen["topk_ids"])


def rounding_cost(
    model: MarkedModel, own: Sequence[OwnRun], names: list[str], rounded: Golden
) -> RoundingCost:
    """The golden tensors of a rounded model beside the model's own runs on the same inputs.

    Outputs and routing are compared over all cases; a token's set of experts counts, not their
    order.
    """
    outputs: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
    routing: defaultdict[str, list[Array]] = defaultdict(list)
    for case, run in zip(rounded.cases, own, strict=True):
        for name, tensor in zip(names, run.outputs, strict=True):
            outputs[name].append((case.outputs[name], array_of(tensor)))
        for layer, ids in run.chosen.items():
            routing[layer].append(_same_set(ids, case.layers[layer].topk_ids))
    return RoundingCost(
        outputs={name: _cost(pairs) for name, pairs in outputs.items()},
        routing={layer: _share(np.concatenate(same)) for layer, same in routing.items()},
    )


def _cost(pairs: Iterable[tuple[Array, Array]]) -> OutputCost:
    costs = [_case_cost(rounded, own) for rounded, own in pairs]
    return OutputCost(
        relative_error=max(error for error, _ in costs), cosine=min(cosine for _, cosine in costs)
    )


def _case_cost(rounded: Array, own: Array) -> tuple[float, float]:
    """Relative error and cosine where both are finite; nothing to compare costs nothing."""
    a, b = (array.astype(np.float64).ravel() for array in (rounded, own))
    numbers = np.isfinite(a) & np.isfinite(b)
    a, b = a[numbers], b[numbers]
    error, scale = np.abs(a - b).max(initial=0.0), np.abs(b).max(initial=0.0)
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(error / scale) if scale else 0.0, float(a @ b / length) if length else 1.0


def _same_set(ids: Array, others: Array) -> Array:
    return np.asarray((np.sort(ids, axis=1) == np.sort(others, axis=1)).all(axis=1))


def _share(same: Array) -> float:
    return float(same.mean()) if same.size else 1.0
