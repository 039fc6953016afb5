"""Record what the eager model does: outputs, routing, and each MoE layer's own inputs and outputs.

Beside every float32 tensor stands its float64 reference, computed with the eager model's choice
of experts, and of keys where an index picks them.  A difference between the two is then rounding
alone, and its size is the yardstick of validation.

In a precision that rounds, the eager model is one whose proven blocks are layers of that precision,
and where rows are rounded too a float32 number next to an edge may fall either way.  Further runs
with all edges moved show what that costs: ``docs/decisions/0010``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from moe_export.capture.axes import Axes, other_sizes, resized
from moe_export.capture.choices import Kept
from moe_export.capture.margins import found_margins
from moe_export.capture.modality import modality_of_case, modality_of_layer
from moe_export.capture.rounding import OwnRun, rounding_cost
from moe_export.capture.watch import (
    Rounding,
    array_of,
    layer_at,
    layer_spec,
    rewritten_model,
    run_watched,
    seen_in,
    side_by_side,
    tensors_in,
    with_layers,
)
from moe_export.forms import (
    OWN_NUMBERS,
    BlockRecord,
    ExpertCase,
    Golden,
    GoldenCase,
    LayerTensors,
    MarkedModel,
    MoELayer,
    Pass,
    RoundingCost,
)
from moe_export.lazy import Promise
from moe_export.moe.reference import rivals, routing_margin, selecting_scores

Array = npt.NDArray[Any]
Inputs = Mapping[str, Tensor]
Seen = Mapping[str, Tensor]

_EXACT = torch.float64

EXAMPLE_CASE = "example"
"""What the case of the example inputs is called."""

EDGE_SHIFTS = (2.0**-17, -(2.0**-17))
"""How far rounding edges are moved, in parts of the largest number of a row or block.

64 units of float32 rounding: the noise of a sum of 4096 products is some 8 of them, relative to
the largest of its row, and what lies before the first rounded layer (embedding, norm, attention)
adds as much again.  Of 127 steps, it is a thousandth of one, of 32767 a quarter.  Moved up and
moved down, the two runs hold every fall that such noise can cause where rows are first rounded.
"""


@dataclass(frozen=True)
class _Model:
    """The eager model in a precision, and its float64 twin."""

    marked: MarkedModel
    eager: nn.Module
    reference: nn.Module
    rounding: Rounding

    @property
    def shifts(self) -> tuple[float, ...]:
        """The edges that are tried beside the true ones: none where rows are not rounded."""
        return EDGE_SHIFTS if self.rounding.rounds_rows else ()

    @property
    def is_rewritten(self) -> bool:
        """Whether another model than the eager one has the proven blocks as ops in float32."""
        return bool(self.marked.proven) and self.rounding.is_none

    @property
    def paths(self) -> list[str]:
        return [block.path for block in self.marked.proven]


def record(
    model: MarkedModel,
    inputs: Mapping[str, Inputs],
    names: list[str],
    rounding: Rounding,
    modality: Mapping[str, Array] | None = None,
) -> tuple[Golden, RoundingCost | None]:
    """Golden tensors of the eager model on each set of inputs, and of each layer's experts.

    Beside them what rounding costs, for a model that is rounded.  ``modality`` is what a source
    knows of the tokens of each case.
    """
    pair = _Model(
        marked=model,
        eager=eager_model(model, rounding),
        reference=with_layers(model, _EXACT, rounding),
        rounding=rounding,
    )
    said = modality or {}
    cases = [
        _Case(pair, name, given, modality_of_case(model, given, said.get(name)))
        for name, given in inputs.items()
    ]
    experts = _Experts(pair, beside=cases[0])
    own = [] if rounding.is_none else [OwnRun(model, given) for given in inputs.values()]
    # The eager runs come first: the others are told what these chose.
    runs = [case.run for case in cases]
    runs += [run for case in cases for run in case.replays]
    runs += [each.run for each in own] + experts.runs
    side_by_side(model.loaded.module, runs)
    golden = Golden(
        cases=tuple(case.golden(names) for case in cases),
        experts={block.name: experts.case(block) for block in model.proven},
    )
    return golden, rounding_cost(model, own, names, golden) if own else None


def eager_model(model: MarkedModel, rounding: Rounding) -> nn.Module:
    """What a bundle that is rounded so has to reproduce: without rounding the model as it is."""
    if rounding.is_none:
        return model.loaded.module
    return with_layers(model, torch.float32, rounding)


def golden_inputs(model: MarkedModel, axes: Axes) -> dict[str, Inputs]:
    """The example, and inputs of other sizes than the example's in every varying axis."""
    example = model.loaded.example_inputs
    if model.loaded.cases:
        return {EXAMPLE_CASE: example, **model.loaded.cases}
    inputs: dict[str, Inputs] = {EXAMPLE_CASE: example}
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


@dataclass(frozen=True)
class _Replay:
    """A run with the eager model's choice of experts: its outputs, and what each layer saw."""

    outputs: list[Tensor]
    seen: Mapping[Pass, Seen]


class _Case:
    """The runs that make one golden case."""

    def __init__(self, model: _Model, name: str, inputs: Inputs, modality: Array) -> None:
        self._model, self._name, self._inputs = model, name, inputs
        self._modality = modality
        self._routed: dict[Pass, Promise[Seen]] = {}
        self._kept = Kept()
        self._exact: Promise[_Replay] = Promise()
        self._moved: dict[float, Promise[_Replay]] = {s: Promise() for s in model.shifts}
        self._rewritten: Promise[_Replay] | None = Promise() if model.is_rewritten else None
        self._outputs: list[Tensor] = []
        self._layers: dict[Pass, Seen] = {}
        self._found: dict[Pass, tuple[Array, Array]] = {}

    def run(self) -> None:
        """The eager run, which routes for itself."""
        marked = self._model.marked

        def route(each: Pass, x: Tensor) -> None:
            layer, rows = marked.layers[each.path], x.reshape(-1, x.shape[-1])
            with torch.no_grad():
                seen = layer.watch(rows)
            self._routing(each).keep(seen)
            if layer.kept is not None:
                self._found[each] = found_margins(layer, rows, seen["router_logits"])

        with self._kept.recorded():
            self._outputs, calls = run_watched(
                self._model.eager, self._inputs, self._model.paths, route
            )
        for each, (_, y) in calls.items():
            rows = y.reshape(-1, y.shape[-1])
            self._layers[each] = {**self.routed(each), "y": rows}

    @property
    def replays(self) -> list[Callable[[], None]]:
        """The float64 run, those with the edges moved, and that of the rewritten model."""
        wide = {key: _widened(x) for key, x in self._inputs.items()}
        exact = partial(self._replay, self._model.reference, wide, 0.0, self._exact)
        moved = [
            partial(self._replay, self._model.eager, self._inputs, shift, promise)
            for shift, promise in self._moved.items()
        ]
        rewritten = [] if self._rewritten is None else [partial(self._rewrite, self._rewritten)]
        return [exact, *moved, *rewritten]

    def _rewrite(self, promise: Promise[_Replay]) -> None:
        self._replay(rewritten_model(self._model.marked), self._inputs, 0.0, promise)

    def _replay(
        self, module: nn.Module, inputs: Inputs, shift: float, promise: Promise[_Replay]
    ) -> None:
        """Run a model of layers on the choices of the eager run, with its rounding edges moved."""
        layers = {path: layer_at(module, path) for path in self._model.paths}
        edges = self._model.marked.edges
        for path, layer in layers.items():
            layer.replayed = self._in_turn(path)
            layer.edge_shift = shift
        edges.shift = shift
        watched = seen_in(module, self._model.paths)
        with torch.no_grad(), self._kept.replayed(), watched as seen:
            outputs = tensors_in(module(**inputs))
        edges.shift = 0.0
        for layer in layers.values():
            layer.replayed, layer.edge_shift = None, 0.0
        promise.keep(_Replay(outputs, seen))

    def routed(self, each: Pass) -> Seen:
        """What the eager run saw before it came to a layer's experts."""
        return self._routing(each).get()

    def _routing(self, each: Pass) -> Promise[Seen]:
        return self._routed.setdefault(each, Promise())

    def _in_turn(self, path: str) -> Callable[[], Seen]:
        """Gives what the eager run saw in the first pass over a block, then in the next."""
        return (self.routed(Pass(path, number)) for number in count(1)).__next__

    def golden(self, names: list[str]) -> GoldenCase:
        """What the runs gave, when all are over."""
        exact, moved = self._exact.get(), [promise.get() for promise in self._moved.values()]
        rewritten = None if self._rewritten is None else self._rewritten.get()
        blocks = {block.path: block for block in self._model.marked.proven}
        return GoldenCase(
            name=self._name,
            component=self._model.marked.loaded.component,
            inputs={key: array_of(x) for key, x in self._inputs.items()},
            outputs=_by_name(names, self._outputs),
            outputs_reference=_by_name(names, exact.outputs),
            outputs_edge_error={
                key: _edge_error(reference, [run.outputs[place] for run in moved])
                for place, (key, reference) in enumerate(zip(names, exact.outputs, strict=True))
            },
            outputs_rewritten_error={
                key: _error(reference, None if rewritten is None else rewritten.outputs[place])
                for place, (key, reference) in enumerate(zip(names, exact.outputs, strict=True))
            },
            layers={
                each.name: _layer_tensors(
                    blocks[each.path],
                    self._layers[each],
                    self._found.get(each),
                    exact.seen[each],
                    layer_at(self._model.reference, each.path).correction_bias,
                    [run.seen[each] for run in moved],
                    {} if rewritten is None else rewritten.seen[each],
                    self._modality_of(each),
                )
                for each in self._layers
            },
            modality=self._modality,
        )

    def _modality_of(self, each: Pass) -> Array:
        rows = self._layers[each]["x"].shape[0]
        return modality_of_layer(self._model.marked, each.path, self._modality, rows)


def _layer_tensors(
    block: BlockRecord,
    eager: Seen,
    found: tuple[Array, Array] | None,
    exact: Seen,
    correction_bias: Tensor | None,
    moved: Sequence[Seen],
    rewritten: Seen,
    modality: Array,
) -> LayerTensors:
    bias = None if correction_bias is None else array_of(correction_bias)
    router = layer_spec(block).router
    logits = array_of(eager["router_logits"])
    margin, pairs = found or (
        routing_margin(logits, router, correction_bias=bias),
        rivals(logits, router, correction_bias=bias),
    )
    return LayerTensors(
        margin=margin,
        rivals=pairs,
        modality=modality,
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
        **{
            f"{role}_edge_error": _edge_error(exact[role], [run[role] for run in moved])
            for role in ("x", "y", "router_logits", "topk_weights")
        },
        **{f"{role}_rewritten_error": _error(exact[role], rewritten.get(role)) for role in "xy"},
    )


def _noise(block: BlockRecord, runs: Sequence[Seen], exact: Seen, bias: Array | None) -> Array:
    """``[T]``: twice the furthest that a selecting score of a run is from the exact one.

    Of a router that is kept no scores are known but its logits.
    """
    # Without groups all experts have a score; their noise doubles where a group's is a sum of two.
    ungrouped = replace(layer_spec(block).router, num_groups=1, topk_groups=1)

    def scores(seen: Seen) -> Array:
        if ungrouped.kept:
            return array_of(seen["router_logits"])
        return selecting_scores(array_of(seen["router_logits"]), ungrouped, correction_bias=bias)

    exactly = scores(exact)
    off = [np.abs(scores(run) - exactly).max(axis=1, initial=0.0) for run in runs]
    return np.asarray(2 * np.max(off, axis=0))


class _Experts:
    """Each layer's experts alone, on tokens that visit every expert in every place of the top-k."""

    def __init__(self, model: _Model, beside: _Case) -> None:
        self._model, self._beside = model, beside
        self._made: dict[tuple[str, str, float], Tensor] = {}

    @property
    def runs(self) -> list[Callable[[], None]]:
        """All layers in float32, in float64, and with the edges moved."""
        kinds = [("eager", 0.0), ("exact", 0.0), *(("eager", s) for s in self._model.shifts)]
        return [partial(self._run, kind, shift) for kind, shift in kinds]

    def _run(self, kind: str, shift: float) -> None:
        for block in self._model.marked.proven:
            self._beside.routed(Pass(block.path))  # or it would read the experts before others do
            x, ids, weights = _visits(block)
            layer, dtype = self._layer(kind, block)
            layer.edge_shift = shift
            with torch.no_grad():
                self._made[block.name, kind, shift] = layer.mix(x.to(dtype), ids, weights.to(dtype))
            layer.edge_shift = 0.0

    def _layer(self, kind: str, block: BlockRecord) -> tuple[MoELayer, torch.dtype]:
        """The experts of a block: the eager model has them in float32 where it rounds."""
        model = self._model
        if kind == "exact":
            return layer_at(model.reference, block.path), _EXACT
        if model.eager is not model.marked.loaded.module:
            return layer_at(model.eager, block.path), torch.float32
        source = model.eager.get_submodule(block.path)
        real = model.marked.real_layer(block.path, source, torch.float32, OWN_NUMBERS)
        return real, torch.float32

    def case(self, block: BlockRecord) -> ExpertCase:
        """What the runs gave for a block, when all are over."""
        x, ids, weights = _visits(block)
        exact = self._made[block.name, "exact", 0.0]
        moved = [self._made[block.name, "eager", shift] for shift in self._model.shifts]
        return ExpertCase(
            x=array_of(x),
            topk_ids=array_of(ids),
            topk_weights=array_of(weights),
            y=array_of(self._made[block.name, "eager", 0.0]),
            y_reference=array_of(exact),
            y_edge_error=_edge_error(exact, moved),
        )


def _visits(block: BlockRecord) -> tuple[Tensor, Tensor, Tensor]:
    """Synthetic tokens ``[E, H]``, experts and weights ``[E, K]``: each once in each place."""
    spec = layer_spec(block)
    experts, top_k = spec.experts, spec.router.top_k
    generator = torch.Generator().manual_seed(30)
    tokens = torch.arange(experts.num_experts)
    x = torch.randn(len(tokens), experts.hidden_size, generator=generator)
    ids = (tokens.reshape(-1, 1) + torch.arange(top_k)) % experts.num_experts
    weights = torch.rand(len(tokens), top_k, generator=generator).add(0.5) / top_k
    return x, ids.int(), weights


def _edge_error(exact: Tensor, moved: Sequence[Tensor]) -> Array:
    """``[]``: the largest difference from the exact tensor where both are numbers."""
    off = [(run.double() - exact.double()).abs().nan_to_num(0, 0) for run in moved]
    return np.asarray(max((float(each.max()) for each in off if each.numel()), default=0.0))


def _error(exact: Tensor, run: Tensor | None) -> Array:
    """``[]``: the largest difference from the exact tensor; NaN where there was no run.

    Infinite where one has a number and the other has none.
    """
    if run is None:
        return np.full((), np.nan)
    exact, run = exact.double(), run.double()
    alike = (exact == run) | (exact.isnan() & run.isnan())
    off = torch.where(alike, 0, (run - exact).abs()).nan_to_num(torch.inf, torch.inf)
    return np.asarray(float(off.max()) if off.numel() else 0.0)


def _by_name(names: list[str], tensors: list[Tensor]) -> dict[str, Array]:
    return {name: array_of(tensor) for name, tensor in zip(names, tensors, strict=True)}


def _widened(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x
