"""Record what the eager model does: outputs, routing, and each MoE layer's own inputs and outputs.

Beside every float32 tensor stands its float64 reference, computed with the eager model's choice
of experts.  A difference between the two is then rounding alone, and its size is the yardstick of
validation.

In a precision that rounds, the eager model is one whose proven blocks are layers of that precision,
and where rows are rounded too a float32 number next to an edge may fall either way.  Further runs
with all edges moved show what that costs: ``docs/decisions/0010``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from moe_export.capture.axes import Axes, other_sizes, resized
from moe_export.capture.watch import (
    Rounding,
    array_of,
    layer_at,
    layer_spec,
    run_watched,
    tensors_in,
    with_layers,
)
from moe_export.forms import (
    OWN_NUMBERS,
    BlockRecord,
    Edges,
    ExpertCase,
    Golden,
    GoldenCase,
    LayerTensors,
    MarkedModel,
    MoELayer,
)
from moe_export.moe.reference import routing_margin, selecting_scores

Array = npt.NDArray[Any]
Inputs = Mapping[str, Tensor]
Seen = Mapping[str, Tensor]

_EXACT = torch.float64

EDGE_SHIFTS = (2.0**-17, -(2.0**-17))
"""How far rounding edges are moved, in parts of the largest number of a row or block.

64 units of float32 rounding: the noise of a sum of 4096 products is some 8 of them, relative to
the largest of its row, and what lies before the first rounded layer (embedding, norm, attention)
adds as much again.  Of 127 steps, it is a thousandth of one, of 32767 a quarter.  Moved up and
moved down, the two runs hold every fall that such noise can cause where rows are first rounded.
"""


@dataclass(frozen=True)
class _Runs:
    """The eager model in a precision, and its float64 twin."""

    model: MarkedModel
    eager: nn.Module
    reference: nn.Module
    rounding: Rounding

    @property
    def shifts(self) -> tuple[float, ...]:
        """The edges that are tried beside the true ones: none where rows are not rounded."""
        return EDGE_SHIFTS if self.rounding.rounds_rows else ()

    @property
    def paths(self) -> list[str]:
        return [block.path for block in self.model.proven]


def record(
    model: MarkedModel, inputs: Mapping[str, Inputs], names: list[str], rounding: Rounding
) -> Golden:
    """Golden tensors of the eager model on each set of inputs, and of each layer's experts."""
    runs = _Runs(
        model=model,
        eager=eager_model(model, rounding),
        reference=with_layers(model, _EXACT, rounding),
        rounding=rounding,
    )
    return Golden(
        cases=tuple(_case(runs, name, given, names) for name, given in inputs.items()),
        experts={block.name: _expert_case(runs, block) for block in model.proven},
    )


def eager_model(model: MarkedModel, rounding: Rounding) -> nn.Module:
    """What a bundle that is rounded so has to reproduce: without rounding the model as it is."""
    if rounding.is_none:
        return model.loaded.module
    return with_layers(model, torch.float32, rounding)


def golden_inputs(model: MarkedModel, axes: Axes) -> dict[str, Inputs]:
    """The example, and inputs of other sizes than the example's in every varying axis."""
    example = model.loaded.example_inputs
    if model.loaded.cases:
        return {"example": example, **model.loaded.cases}
    inputs: dict[str, Inputs] = {"example": example}
    for name, sizes in other_sizes(example, axes):
        inputs[name] = resized(example, axes, sizes)
    return inputs


def fresh_inputs(model: MarkedModel, seed: int) -> Inputs:
    """Inputs of the example's sizes that it did not hold: rows drawn anew, numbers perturbed.

    Integers are shuffled within their input, so token ids stay ids the model knows.  Those of a
    model with cases of its own stay as they are: they may be positions, or sizes of other inputs.
    """
    fixed = bool(model.loaded.cases)
    generator = torch.Generator().manual_seed(seed)

    def fresh(x: Tensor) -> Tensor:
        if not x.numel() or (fixed and not x.is_floating_point()):
            return x
        if not x.is_floating_point():
            order = torch.randperm(x.numel(), generator=generator)
            return x.reshape(-1)[order].reshape(x.shape)
        spread = float(x.std()) if x.numel() > 1 else 1.0
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32) * spread
        return (x[torch.randperm(x.shape[0], generator=generator)] + 0.25 * noise).to(x.dtype)

    return {name: fresh(x) for name, x in model.loaded.example_inputs.items()}


def _case(runs: _Runs, name: str, inputs: Inputs, names: list[str]) -> GoldenCase:
    outputs, calls = run_watched(runs.eager, inputs, runs.paths)
    layers: dict[str, Seen] = {}
    for path in runs.paths:
        x, y = calls[path]
        rows = x.reshape(-1, x.shape[-1])
        with torch.no_grad():
            layers[path] = {**runs.model.layers[path].watch(rows), "y": y.reshape(-1, y.shape[-1])}
    exact = _replayed(runs.reference, {key: _widened(x) for key, x in inputs.items()}, layers)
    moved = [
        _replayed(runs.eager, inputs, layers, shift, runs.model.edges) for shift in runs.shifts
    ]
    return GoldenCase(
        name=name,
        component=runs.model.loaded.component,
        inputs={key: array_of(x) for key, x in inputs.items()},
        outputs=_by_name(names, outputs),
        outputs_reference=_by_name(names, exact.outputs),
        outputs_edge_error={
            key: _edge_error(reference, [run.outputs[place] for run in moved])
            for place, (key, reference) in enumerate(zip(names, exact.outputs, strict=True))
        },
        layers={
            block.name: _layer_tensors(
                block,
                layers[block.path],
                layer_at(runs.reference, block.path),
                [run.seen[block.path] for run in moved],
            )
            for block in runs.model.proven
        },
    )


@dataclass(frozen=True)
class _Replay:
    """A run with the eager model's choice of experts: its outputs, and what each layer saw."""

    outputs: list[Tensor]
    seen: dict[str, Seen]


def _replayed(
    module: nn.Module,
    inputs: Inputs,
    chosen: Mapping[str, Seen],
    shift: float = 0.0,
    edges: Edges | None = None,
) -> _Replay:
    """Run a model of layers on the choice of another run, with its rounding edges moved."""
    layers = {path: layer_at(module, path) for path in chosen}
    for path, layer in layers.items():
        layer.replayed_ids, layer.edge_shift = chosen[path]["topk_ids"], shift
    edges = edges or Edges()
    edges.shift = shift
    with torch.no_grad():
        outputs = tensors_in(module(**inputs))
    edges.shift = 0.0
    for layer in layers.values():
        layer.replayed_ids, layer.edge_shift = None, 0.0
    return _Replay(outputs, {path: dict(layer.seen) for path, layer in layers.items()})


def _layer_tensors(
    block: BlockRecord, eager: Seen, reference: MoELayer, moved: Sequence[Seen]
) -> LayerTensors:
    exact = reference.seen
    bias = None if reference.correction_bias is None else array_of(reference.correction_bias)
    router = layer_spec(block).router
    logits = array_of(eager["router_logits"])
    return LayerTensors(
        margin=routing_margin(logits, router, correction_bias=bias),
        noise=_noise(block, [eager, *moved], exact, bias),
        x=array_of(eager["x"]),
        y=array_of(eager["y"]),
        router_logits=logits,
        topk_ids=array_of(eager["topk_ids"]),
        topk_weights=array_of(eager["topk_weights"]),
        x_reference=array_of(exact["x"]),
        y_reference=array_of(exact["y"]),
        router_logits_reference=array_of(exact["router_logits"]),
        topk_weights_reference=array_of(exact["topk_weights"]),
        x_edge_error=_edge_error(exact["x"], [run["x"] for run in moved]),
        y_edge_error=_edge_error(exact["y"], [run["y"] for run in moved]),
    )


def _noise(block: BlockRecord, runs: Sequence[Seen], exact: Seen, bias: Array | None) -> Array:
    """``[T]``: twice the furthest that a selecting score of a run is from the exact one."""
    # Without groups all experts have a score; their noise doubles where a group's is a sum of two.
    ungrouped = replace(layer_spec(block).router, num_groups=1, topk_groups=1)

    def scores(seen: Seen) -> Array:
        return selecting_scores(array_of(seen["router_logits"]), ungrouped, correction_bias=bias)

    exactly = scores(exact)
    off = [np.abs(scores(run) - exactly).max(axis=1, initial=0.0) for run in runs]
    return np.asarray(2 * np.max(off, axis=0))


def _expert_case(runs: _Runs, block: BlockRecord) -> ExpertCase:
    """Synthetic tokens that visit every expert in every place of the top-k."""
    spec = layer_spec(block)
    experts, top_k = spec.experts, spec.router.top_k
    generator = torch.Generator().manual_seed(30)
    tokens = 2 * experts.num_experts
    x = torch.randn(tokens, experts.hidden_size, generator=generator)
    ids = (torch.arange(tokens).reshape(-1, 1) + torch.arange(top_k)) % experts.num_experts
    weights = torch.rand(tokens, top_k, generator=generator).add(0.5) / top_k

    def mixed(layer: MoELayer, dtype: torch.dtype, shift: float = 0.0) -> Tensor:
        layer.edge_shift = shift
        with torch.no_grad():
            y = layer.mix(x.to(dtype), ids.int(), weights.to(dtype))
        layer.edge_shift = 0.0
        return y

    eager, exact = _eager_layer(runs, block), mixed(layer_at(runs.reference, block.path), _EXACT)
    return ExpertCase(
        x=array_of(x),
        topk_ids=array_of(ids.int()),
        topk_weights=array_of(weights),
        y=array_of(mixed(eager, torch.float32)),
        y_reference=array_of(exact),
        y_edge_error=_edge_error(exact, [mixed(eager, torch.float32, s) for s in runs.shifts]),
    )


def _eager_layer(runs: _Runs, block: BlockRecord) -> MoELayer:
    """The experts of a block in float32: the eager model has them where it rounds."""
    if runs.eager is runs.model.loaded.module:
        source = runs.eager.get_submodule(block.path)
        return runs.model.real_layer(block.path, source, torch.float32, OWN_NUMBERS)
    return layer_at(runs.eager, block.path)


def _edge_error(exact: Tensor, moved: Sequence[Tensor]) -> Array:
    """``[]``: the largest difference from the exact tensor where both are numbers."""
    off = [(run.double() - exact.double()).abs().nan_to_num(0, 0) for run in moved]
    return np.asarray(max((float(each.max()) for each in off if each.numel()), default=0.0))


def _by_name(names: list[str], tensors: list[Tensor]) -> dict[str, Array]:
    return {name: array_of(tensor) for name, tensor in zip(names, tensors, strict=True)}


def _widened(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x
