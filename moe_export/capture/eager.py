"""The eager parts of a Transformers model in turn, as the runtime runs their graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from moe_export.capture.golden import eager_model
from moe_export.capture.margins import found_margins
from moe_export.capture.watch import Inputs, Rounding, array_of, layer_spec, run_watched
from moe_export.forms import Array, Asked, LoadedModel, MarkedModel, Pass
from moe_export.moe.reference import routing_margin

EMBED, DECODER, VISION = "embed", "decoder", "vision"
_LOGITS, _MASK, _IDS = "logits", "attention_mask", "input_ids"
_PAST, _PRESENT = "past_", "present_"


@dataclass(frozen=True)
class Step:
    """One run of the decoder: the logits ``[V]`` of its last token, and how near each layer came.

    ``margins`` are the smallest routing margins by MoE layer.
    """

    logits: Array
    margins: dict[str, float]


@dataclass(frozen=True)
class EagerParts:
    """The parts of a model by component, each with the module that runs for it."""

    parts: Mapping[str, MarkedModel]
    modules: Mapping[str, nn.Module]
    names: Mapping[str, list[str]]
    """Of the outputs of each, in order."""

    def inputs(self, asked: Asked) -> dict[str, Inputs]:
        """What each component takes for a prompt: ``vision`` only where there is an image."""
        seen = {name: torch.from_numpy(x) for name, x in asked.images.items()}
        features = self._run(VISION, seen) if seen else self._no_features()
        embed = {_IDS: torch.from_numpy(asked.ids), **features}
        given = self._given(self._run(EMBED, embed), torch.from_numpy(asked.positions))
        made: dict[str, Inputs] = {EMBED: embed, DECODER: {**given, **self._empty_cache()}}
        return {VISION: seen, **made} if seen else made

    def steps(self, prompt: Inputs) -> Iterator[Step]:
        """The decoder's run on a prompt, of ``inputs``, and then on each token that is likeliest.

        Endless: it is the caller's to stop.  Ties go to the lower id.
        """
        inputs = dict(prompt)
        after = int(inputs["position_ids"].max()) + 1
        while True:
            made, margins = self._decoded(inputs)
            logits = array_of(made[_LOGITS][0, -1])
            yield Step(logits, margins)
            ids = torch.tensor([[int(logits.argmax())]])
            past = {_PAST + name.removeprefix(_PRESENT): x for name, x in made.items()}
            positions = torch.full((*inputs["position_ids"].shape[:-1], 1), after)
            embedded = self._run(EMBED, {_IDS: ids, **self._no_features()})
            length = inputs[_MASK].shape[1]
            inputs = {
                **{name: past[name] for name in self._pasts},
                **self._given(embedded, positions, length),
            }
            after += 1

    def _decoded(self, inputs: Inputs) -> tuple[dict[str, Tensor], dict[str, float]]:
        part = self.parts[DECODER]
        blocks = {block.path: block for block in part.proven}
        margins: dict[str, float] = {}

        def meet(each: Pass, x: Tensor) -> None:
            layer, rows = part.layers[each.path], x.reshape(-1, x.shape[-1])
            with torch.no_grad():
                seen = layer.watch(rows)
            if layer.kept is not None:
                gaps, _ = found_margins(layer, rows, seen["router_logits"])
            else:
                bias = None if layer.correction_bias is None else array_of(layer.correction_bias)
                router = layer_spec(blocks[each.path]).router
                logits = array_of(seen["router_logits"])
                gaps = routing_margin(logits, router, correction_bias=bias)
            margins[each.name] = float(gaps.min(initial=np.inf))

        ordered = {name: inputs[name] for name in part.loaded.example_inputs}
        outputs, _ = run_watched(self.modules[DECODER], ordered, list(blocks), meet)
        return dict(zip(self.names[DECODER], outputs, strict=True)), margins

    def _run(self, component: str, inputs: Inputs) -> dict[str, Tensor]:
        outputs, _ = run_watched(self.modules[component], inputs, [])
        return dict(zip(self.names[component], outputs, strict=True))

    def _given(self, embedded: Inputs, positions: Tensor, before: int = 0) -> dict[str, Tensor]:
        """What a decoder takes beside its cache, behind so many tokens."""
        count = embedded["inputs_embeds"].shape[1]
        mask = torch.ones(1, before + count, dtype=torch.int64)
        return {**embedded, "position_ids": positions, _MASK: mask}

    @property
    def _pasts(self) -> list[str]:
        return [
            name for name in self.parts[DECODER].loaded.example_inputs if name.startswith(_PAST)
        ]

    def _empty_cache(self) -> dict[str, Tensor]:
        """Of one text: no tokens, and states of zeros."""
        loaded = self.parts[DECODER].loaded
        return {name: torch.zeros_like(_cut(loaded, name, past=0, batch=1)) for name in self._pasts}

    def _no_features(self) -> dict[str, Tensor]:
        """What ``embed`` takes beside ids where there is no image."""
        loaded = self.parts[EMBED].loaded
        names = [name for name in loaded.example_inputs if name != _IDS]
        return {name: _cut(loaded, name, features=0) for name in names}


def eager_parts(
    model: MarkedModel, roundings: Mapping[str, Rounding], names: Mapping[str, list[str]]
) -> EagerParts:
    """The parts of a model, each rounded as it is in the bundle; ``names`` are those of outputs."""
    parts = {part.loaded.component: part for part in model.parts}
    modules = {name: eager_model(part, roundings[name]) for name, part in parts.items()}
    return EagerParts(parts=parts, modules=modules, names=names)


def _cut(loaded: LoadedModel, name: str, **sizes: int) -> Tensor:
    """An example input cut to so much along its axes of these names."""
    x = loaded.example_inputs[name]
    for axis, size in ((loaded.dynamic_shapes or {}).get(name) or {}).items():
        if size in sizes:
            x = x.narrow(axis, 0, sizes[size])
    return x
