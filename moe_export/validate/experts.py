"""Each MoE layer's experts alone: every expert, tokens of padding, no token, all tokens at one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.forms import ExpertCase, TensorParity
from moe_export.runtime.session import Session
from moe_export.validate.tensors import compare

Array = npt.NDArray[Any]

EVERY_EXPERT = "every expert"
OVERLOADED_TOKENS = 67
"""Of an expert that all tokens choose: more than four panels of 16 rows, and no whole number."""

_ROLES = ("x", "topk_ids", "topk_weights")


@dataclass(frozen=True)
class ExpertsRun:
    """What the experts of one layer made of a case of synthetic tokens."""

    name: str
    layer: str
    case: ExpertCase
    y: Array
    parity: TensorParity


def run_experts(
    cases: Mapping[str, ExpertCase], experts: Mapping[str, int], session: Session
) -> Iterator[ExpertsRun]:
    """All cases of all layers; ``experts`` has their number, E, by layer.

    What a row becomes depends on its token and experts alone.  So the recorded tokens, arranged
    anew, are further cases of known result: beside ``every expert``, ``padded`` (some tokens belong
    to no expert and hold NaN, and their rows have to be 0), ``empty`` (no token at all) and
    ``overloaded`` (one expert is chosen by every token).  All are held to the tolerance that the
    recorded case has earned.
    """
    tolerances: dict[str, TensorParity] = {}
    for name, arrange in _ARRANGED.items():
        arranged = {layer: arrange(case, experts[layer]) for layer, case in cases.items()}
        inputs = {
            f"{layer}/{role}": getattr(case, role)
            for layer, case in arranged.items()
            for role in _ROLES
        }
        made = session.run(inputs)
        for layer, case in arranged.items():
            y = made[f"{layer}/experts_y"]
            parity = _compared(name, layer, case, y)
            yardstick = tolerances.setdefault(layer, parity)
            yield ExpertsRun(name, layer, case, y, _held_to(yardstick, parity))


def with_labels(case: ExpertCase, labels: Array | None) -> ExpertCase:
    """The case by the bundle's numbers of experts, where they are others: see ``labels_of``."""
    if labels is None:
        return case
    return replace(case, topk_ids=labels[case.topk_ids].astype(case.topk_ids.dtype))


def _compared(name: str, layer: str, case: ExpertCase, y: Array) -> TensorParity:
    return compare(
        name,
        f"{layer}/experts",
        "expert",
        bundle=y,
        eager=case.y,
        reference=case.y_reference,
        edge_error=float(case.y_edge_error),
    )


def _held_to(yardstick: TensorParity, parity: TensorParity) -> TensorParity:
    tolerance = yardstick.tolerance
    return replace(parity, tolerance=tolerance, passed=parity.max_error <= tolerance)


def _recorded(case: ExpertCase, num_experts: int) -> ExpertCase:
    return case


def _padded(case: ExpertCase, num_experts: int) -> ExpertCase:
    """Every third token is one of padding, from the first on; their ids lie on both sides."""
    padding = np.arange(len(case.x)) % 3 == 0
    outside = np.where(np.arange(case.topk_ids.shape[1]) % 2, num_experts, -1)

    def with_rows(array: Array, value: Any) -> Array:
        changed = array.copy()
        changed[padding] = value
        return changed

    return replace(
        case,
        x=with_rows(case.x, np.nan),
        topk_ids=with_rows(case.topk_ids, outside),
        y=with_rows(case.y, 0),
        y_reference=with_rows(case.y_reference, 0),
    )


def _empty(case: ExpertCase, num_experts: int) -> ExpertCase:
    return _rows(case, np.arange(0))


def _overloaded(case: ExpertCase, num_experts: int) -> ExpertCase:
    """The tokens that chose expert 0, in turn, so that no row is that of its neighbour."""
    chose = np.flatnonzero((case.topk_ids == 0).any(axis=1))
    return _rows(case, np.resize(chose, OVERLOADED_TOKENS if chose.size else 0))


def _rows(case: ExpertCase, rows: Array) -> ExpertCase:
    changed = {name: getattr(case, name)[rows] for name in (*_ROLES, "y", "y_reference")}
    return replace(case, **changed)


_ARRANGED = {
    EVERY_EXPERT: _recorded,
    "padded": _padded,
    "empty": _empty,
    "overloaded": _overloaded,
}
