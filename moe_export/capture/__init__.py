"""From PyTorch to a portable graph, with the eager model's own numbers beside it."""

from __future__ import annotations

import torch

from moe_export.capture.clean import clean, name_nodes, take_probes
from moe_export.capture.completeness import names_read, unused_tensors
from moe_export.capture.golden import fresh_inputs, golden_inputs, record
from moe_export.capture.precision import give_precision
from moe_export.capture.rounding import rounding_cost
from moe_export.capture.trace import output_names, trace
from moe_export.capture.weights import take_weights
from moe_export.errors import CaptureError
from moe_export.forms import OWN_NUMBERS, Component, Golden, MarkedModel, PortableModel
from moe_export.moe.quantize import Precision

COMPONENT = "model"


def capture(model: MarkedModel, precision: Precision = OWN_NUMBERS) -> PortableModel:
    """One graph in ``moe_export`` ops and standard ONNX, with golden tensors.

    *Requires* a marked model whose ``forward`` runs on the example inputs.
    *Ensures* that batch, sequence and every other axis the model lets vary are symbolic; that the
    eager model ran on sizes the tracer did not see; that every parameter and buffer is in the
    graph or listed as unused with the reason; and that the experts of the graph and those of the
    golden tensors are in ``precision``.  Raises ``CaptureError``, ``RewriteError``,
    ``CompletenessError``, or ``UnsupportedError`` for a weight that the precision does not hold.
    """
    loaded = model.loaded
    _require_determinism(model)
    names = output_names(loaded.module, loaded.example_inputs)
    traced = trace(model, names)
    weights = take_weights(traced.graph, model)  # first: what has no bytes cannot be folded away
    clean(traced.graph, traced.axes)
    probes = take_probes(traced.graph)
    name_nodes(traced.graph, probes)
    unused = unused_tensors(loaded, weights.values(), model.blocks, names_read(loaded))
    stored = give_precision(traced.graph, weights, precision)
    inputs = golden_inputs(model, traced.axes)
    golden = record(model, inputs, names, precision)
    rounds = precision != OWN_NUMBERS and bool(model.proven)
    return PortableModel(
        components={COMPONENT: Component(graph=traced.graph, weights=stored, probes=probes)},
        golden=golden,
        blocks=model.blocks,
        unused=unused,
        parameters=sum(parameter.numel() for parameter in loaded.module.parameters()),
        assets=loaded.assets,
        source=loaded.source,
        precision=precision,
        rounding=rounding_cost(model, inputs, names, golden) if rounds else None,
    )


def capture_live(
    model: MarkedModel, precision: Precision = OWN_NUMBERS, *, seeds: tuple[int, ...] = (1, 2)
) -> Golden:
    """Golden tensors of the eager model on inputs that no bundle has seen."""
    names = output_names(model.loaded.module, model.loaded.example_inputs)
    inputs = {f"fresh {seed}": fresh_inputs(model, seed) for seed in seeds}
    return record(model, inputs, names, precision)


def _require_determinism(model: MarkedModel) -> None:
    """Refuse a model whose two runs differ: nothing could be validated against it."""
    module, inputs = model.loaded.module, model.loaded.example_inputs
    with torch.no_grad():
        first, second = (torch.utils._pytree.tree_leaves(module(**inputs)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        if isinstance(one, torch.Tensor) and not torch.equal(one.nan_to_num(), other.nan_to_num()):
            noisy = [b for b in model.blocks if b.status == "unfused"]
            raise CaptureError(
                "two runs of the model on the same inputs differ, in eval mode"
                + (f": {noisy[0].reason}" if noisy else ""),
                where=noisy[0].path if noisy else type(module).__name__,
                hint="remove what draws random numbers from forward() in eval mode",
            )
