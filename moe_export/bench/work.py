"""What one run of a bundle has to do: tokens, expert weights that are read, operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moe_export.forms import MAIN_COMPONENT, Array, block_name
from moe_export.moe.packing import packed_size
from moe_export.runtime.session import Session

if TYPE_CHECKING:
    from moe_export.manifest import Manifest
    from moe_export.moe.layer import ExpertsSpec
    from moe_export.moe.quantize import Precision
    from moe_export.runtime.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class Work:
    """One run, over all MoE layers."""

    tokens: int
    """The rows that enter an MoE layer, of the layer with the most; 0 without such layers."""

    expert_bytes: int
    """Of the experts that some token chose, as the bundle's precision stores them."""

    operations: int
    """Multiplications and additions of the experts' matrices."""


def work_of(bundle: Bundle, inputs: Mapping[str, Array], component: str = MAIN_COMPONENT) -> Work:
    """The work of a component's graph on ``inputs``, from the choices that its routers make."""
    probes = bundle.component(component).probes
    names = {layer: roles["topk_ids"] for layer, roles in probes.items() if "topk_ids" in roles}
    if not names:
        return Work(tokens=0, expert_bytes=0, operations=0)
    with Session(bundle, component=component, graph="probe") as session:
        chosen = session.run(inputs, outputs=sorted(set(names.values())))
    parts = list(_parts(bundle.manifest, {layer: chosen[name] for layer, name in names.items()}))
    return Work(
        tokens=max(part.tokens for part in parts),
        expert_bytes=sum(part.expert_bytes for part in parts),
        operations=sum(part.operations for part in parts),
    )


def _parts(manifest: Manifest, chosen: Mapping[str, Array]) -> Iterator[Work]:
    known = {block.name: block.layer for block in manifest.blocks if block.layer is not None}
    for layer, ids in chosen.items():
        experts = known[block_name(layer, known)].experts
        valid = ids[(ids >= 0) & (ids < experts.num_experts)]
        yield Work(
            tokens=len(ids),
            expert_bytes=len(np.unique(valid)) * _bytes_of_one(experts, manifest.precision),
            operations=2 * valid.size * experts.parameters_per_expert,
        )


def _bytes_of_one(experts: ExpertsSpec, precision: Precision) -> int:
    """One expert in panels; as rows it is as large but for padding."""
    up_rows = experts.intermediate_size * (2 if experts.gated else 1)
    columns = experts.intermediate_size or experts.hidden_size
    shapes = [(experts.output_size, columns, False)]
    if up_rows:
        shapes.append((up_rows, experts.hidden_size, experts.gated))
    return sum(
        packed_size(
            (1, rows, columns),
            precision.format,
            block_size=precision.block_size,
            gated=gated,
            zeros=precision.zeros,
        )
        for rows, columns, gated in shapes
    )
