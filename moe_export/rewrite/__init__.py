"""Recognise mixture-of-experts blocks, prove the proposals, and replace what is proven."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from moe_export.forms import (
    OWN_NUMBERS,
    ROOT_NAME,
    BlockRecord,
    Edges,
    LoadedModel,
    MarkedModel,
)
from moe_export.lazy import cores_for, in_memory, twin_of
from moe_export.moe.quantize import Precision
from moe_export.moe.recipe import Recipe, Source
from moe_export.ondisk import Spool
from moe_export.rewrite.alike import alike, reads_all, widened
from moe_export.rewrite.dense import rounded_matrix
from moe_export.rewrite.fused import FusedMoE, built, fused, placeholder, rounded
from moe_export.rewrite.groups import expert_groups, named_source
from moe_export.rewrite.proposal import Proposal, Refusal, first_tensor_like
from moe_export.rewrite.recognise import Recognition, recognise
from moe_export.rewrite.register import is_registered
from moe_export.rewrite.rows import tensor_named


def rewrite(loaded: LoadedModel, spool: Spool | None = None) -> MarkedModel:
    """The model with every proven block replaced by a router op, or its own router, and experts.

    *Requires* a module in eval mode that runs on ``loaded.example_inputs``.
    *Ensures* that ``loaded.module`` is unchanged, that the marked model shares its tensors, and
    that each block which looked like a mixture of experts has a record: proven, or unfused with
    the reason.  Models beside this one are rewritten alike, and share its ``spool``.
    """
    with cores_for(loaded.module):
        return _rewritten(loaded, spool)


def _rewritten(loaded: LoadedModel, spool: Spool | None) -> MarkedModel:
    marked = twin_of(loaded.module)
    shown: dict[str, Recognition] = {}
    proposals: dict[str, Proposal] = {}
    layers: dict[str, FusedMoE] = {}
    recipes: dict[str, Recipe] = {}
    records: list[BlockRecord] = []
    for path, call in _candidates(loaded):
        if any(_inside(record.path, path) for record in records):
            continue
        block = loaded.module.get_submodule(path)
        decision = _decision(loaded, path, call, shown)
        if isinstance(decision, Refusal):
            if decision.routed:
                records.append(_refused(path, block, decision))
            continue
        shown[path] = decision
        records.append(_proven(path, block, decision))
        layers[path] = _replacement(marked, path, decision)
        if path:
            marked.set_submodule(path, layers[path])
        else:
            marked = _in_place_of_all(layers[path], loaded.example_inputs)
        proposals[path] = decision.proposal
        for role, recipe in decision.proposal.weights.items():
            name = f"{path or ROOT_NAME}.{role}"
            recipes[name] = _of_the_model(recipe, loaded.module, f"{path}." if path else "")

    spool, edges = spool or Spool(loaded.spool_folder), Edges()

    def real_layer(
        path: str, block: nn.Module, dtype: torch.dtype, precision: Precision
    ) -> FusedMoE:
        source = loaded.module.get_submodule(path)
        if precision == OWN_NUMBERS:
            return fused(proposals[path], block)
        return rounded(proposals[path], block, source, precision, spool, path or ROOT_NAME)

    def dense_weight(name: str, precision: Precision) -> Tensor:
        return rounded_matrix(name, tensor_named(loaded.module, name), precision, spool, edges)

    order = {path: number for number, (path, _) in enumerate(loaded.module.named_modules())}
    return MarkedModel(
        loaded=loaded,
        marked=marked,
        recipes=recipes,
        blocks=tuple(sorted(records, key=lambda record: order[record.path])),
        layers=layers,
        real_layer=real_layer,
        dense_weight=dense_weight,
        edges=edges,
        spool=spool,
        beside=tuple(_rewritten(other, spool) for other in loaded.beside),
    )


@dataclass(frozen=True)
class _BlockCall:
    """How the model calls a block: its one input, or why that is not how."""

    x: Tensor | None
    objection: str | None = None


def _candidates(loaded: LoadedModel) -> Iterator[tuple[str, _BlockCall]]:
    """Modules that may be blocks and were called, the deepest first."""
    paths = {
        module: path
        for path, module in loaded.module.named_modules()
        if is_registered(module) or expert_groups(module)
    }
    calls: dict[str, _BlockCall] = {}

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.setdefault(paths[module], _block_call(args, kwargs, output))

    handles = [m.register_forward_hook(record, with_kwargs=True) for m in paths]
    try:
        with torch.no_grad():
            loaded.module(**loaded.example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    for path in sorted(calls, key=lambda path: -path.count(".") - bool(path)):
        yield path, calls[path]


def _block_call(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> _BlockCall:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if len(tensors) != 1:
        return _BlockCall(None, f"it takes {len(tensors)} tensors, not one hidden state")
    x = tensors[0]
    if not x.is_floating_point() or x.dim() < 2 or first_tensor_like(output, x) is None:
        return _BlockCall(None, "it does not map rows of tokens to rows of tokens")
    return _BlockCall(x.clone())


def _decision(
    loaded: LoadedModel, path: str, call: _BlockCall, shown: Mapping[str, Recognition]
) -> Recognition | Refusal:
    """What the block is: shown of one alike before, of one with narrower experts, or of itself."""
    block = loaded.module.get_submodule(path)
    if call.x is None:
        return Refusal(str(call.objection), routed=is_registered(block))
    for other, known in shown.items():
        source = loaded.module.get_submodule(other)
        if reads_all(known.proposal, source) and alike(block, source):
            return replace(
                known, proof=replace(known.proof, shown_on=known.proof.shown_on or other)
            )
    narrow = loaded.narrow_block(path)
    found = None if narrow is None else recognise(narrow, call.x)
    if narrow is not None and isinstance(found, Recognition):
        proposal = widened(found.proposal, narrow, block)
        if proposal is not None and reads_all(proposal, block):
            size = found.proposal.layer.experts.intermediate_size
            proof = replace(found.proof, intermediate_size=size)
            return replace(found, proposal=proposal, proof=proof)
    return recognise(in_memory(block), call.x)


def _inside(path: str, other: str) -> bool:
    """Whether ``path`` is ``other`` or lies within it."""
    return not other or path == other or path.startswith(f"{other}.")


def _refused(path: str, block: nn.Module, refusal: Refusal) -> BlockRecord:
    return BlockRecord(
        path=path,
        kind=type(block).__name__,
        status="unfused",
        found_by="registered" if is_registered(block) else "structure",
        reason=refusal.reason,
    )


def _proven(path: str, block: nn.Module, recognition: Recognition) -> BlockRecord:
    return BlockRecord(
        path=path,
        kind=type(block).__name__,
        status="proven",
        found_by=recognition.found_by,
        layer=recognition.proposal.layer,
        proof=recognition.proof,
        reason=recognition.proposal.why_kept,
    )


def _of_the_model(recipe: Recipe, model: nn.Module, prefix: str) -> Recipe:
    """A block's recipe by the model's names, and in its dtype: the proof ran on a float64 twin."""

    def change(source: Source) -> Source:
        return named_source(model, prefix + source.name)

    return recipe.map(change)


def _replacement(marked: nn.Module, path: str, recognition: Recognition) -> FusedMoE:
    block = marked.get_submodule(path)
    dtype = next(parameter.dtype for parameter in block.parameters())
    weights = {
        # The router's vectors are small and real, so that a marked layer can route.
        role: built(recipe, block) if len(recipe.shape) == 1 else placeholder(recipe, dtype)
        for role, recipe in recognition.proposal.weights.items()
    }
    return FusedMoE(recognition.proposal, block, weights, name=path or ROOT_NAME).eval()


def _in_place_of_all(layer: FusedMoE, inputs: Mapping[str, Tensor]) -> nn.Module:
    """A model that is one block alone, with the parameter names of the original's ``forward``."""
    graph = fx.Graph()
    given = [graph.placeholder(name) for name in inputs]
    graph.output(graph.call_module(ROOT_NAME, (given[0],)))
    return fx.GraphModule({ROOT_NAME: layer}, graph)
