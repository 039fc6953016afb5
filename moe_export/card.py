"""The MoE card as data: what a model or a bundle holds, layer by layer, and how that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe_export.forms import BlockRecord, RoundingCost, Source
from moe_export.manifest import FILE_NAME

if TYPE_CHECKING:
    import torch

    from moe_export.forms import MarkedModel
    from moe_export.manifest import ComponentRecord
    from moe_export.runtime.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class BundleFacts:
    """What only a bundle has."""

    target: str
    device: str
    precision: str
    dense_precision: str
    rounding: RoundingCost | None
    """What the precision costs, where it rounds."""

    verdict: str
    tool: str
    digest: str
    components: Mapping[str, ComponentRecord]
    files: Mapping[str, int]
    """Bytes of every file by path, the manifest included."""

    unused: Mapping[str, str]
    """Source tensors that no graph holds, each with the reason."""

    @property
    def bytes(self) -> int:
        """All files together."""
        return sum(self.files.values())


@dataclass(frozen=True, kw_only=True)
class Card:
    """One model: its mixture-of-experts blocks, and what it weighs."""

    source: Source
    blocks: tuple[BlockRecord, ...]
    parameters: int
    weight_bytes: int
    """Of a model: its parameters and buffers, each once.  Of a bundle: its weight files."""

    bundle: BundleFacts | None = None

    @property
    def layers(self) -> tuple[BlockRecord, ...]:
        """The blocks that were proven to be MoE layers."""
        return tuple(block for block in self.blocks if block.status == "proven")

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: all but those of the experts it does not choose.

        An upper bound where ``active_is_bound``: of a block that was not proven all count.
        """
        return self.parameters - sum(_idle(block) for block in self.layers)

    @property
    def active_is_bound(self) -> bool:
        return len(self.layers) < len(self.blocks)


def model_card(marked: MarkedModel) -> Card:
    """The card of a model whose blocks have been recognised and proven."""
    module = marked.loaded.module
    return Card(
        source=marked.loaded.source,
        blocks=marked.blocks,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        weight_bytes=weight_bytes(module),
    )


def bundle_card(bundle: Bundle) -> Card:
    """The card of a bundle, from its manifest."""
    manifest, facts = bundle.manifest, bundle_facts(bundle)
    return Card(
        source=manifest.source,
        blocks=manifest.blocks,
        parameters=manifest.parameters,
        weight_bytes=sum(facts.files[part.data] for part in manifest.components.values()),
        bundle=facts,
    )


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """What is on disk and for whom, from the manifest."""
    manifest = bundle.manifest
    files = {path: record.bytes for path, record in manifest.files.items()}
    return BundleFacts(
        target=manifest.target,
        device=manifest.device,
        precision=str(manifest.precision),
        dense_precision=str(manifest.dense_precision),
        rounding=manifest.rounding,
        verdict=manifest.verdict,
        tool=f"{manifest.tool.name} {manifest.tool.version}",
        digest=manifest.digest,
        components=manifest.components,
        files={FILE_NAME: len(manifest.to_json()), **dict(sorted(files.items()))},
        unused=manifest.unused,
    )


def weight_bytes(module: torch.nn.Module) -> int:
    """Bytes of the module's parameters and buffers; tied ones count once."""
    tensors: Iterable[torch.Tensor] = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _idle(block: BlockRecord) -> int:
    if block.layer is None:
        return 0
    router, experts = block.layer.router, block.layer.experts
    # A token may have chosen experts without parameters; what it then leaves idle is more.
    return (experts.num_experts - min(router.top_k, experts.num_experts)) * (
        experts.parameters_per_expert
    )
