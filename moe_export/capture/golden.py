"""Record what the eager model does: outputs, routing, and each MoE layer's own inputs and outputs.

Beside every float32 tensor stands its float64 reference, computed with the eager model's choice
of experts.  A difference between the two is then rounding alone, and its size is the yardstick of
validation.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from moe_export.capture.axes import Axes, other_sizes, resized
from moe_export.errors import CaptureError
from moe_export.forms import (
    BlockRecord,
    ExpertCase,
    Golden,
    GoldenCase,
    LayerTensors,
    MarkedModel,
    MoELayer,
)
from moe_export.moe.layer import LayerSpec
from moe_export.moe.reference import routing_margin, selecting_scores

Array = npt.NDArray[Any]
Inputs = Mapping[str, Tensor]


def record(model: MarkedModel, inputs: Mapping[str, Inputs], names: list[str]) -> Golden:
    """Golden tensors of the eager model on each set of inputs, and of each layer's experts."""
    reference = _reference_model(model)
    cases = tuple(_case(model, reference, name, given, names) for name, given in inputs.items())
    return Golden(
        cases=cases,
        experts={block.name: _expert_case(model, block) for block in model.proven},
    )


def golden_inputs(model: MarkedModel, axes: Axes) -> dict[str, Inputs]:
    """The example, and inputs of other sizes than the example's in every varying axis."""
    example = model.loaded.example_inputs
    inputs: dict[str, Inputs] = {"example": example}
    for name, sizes in other_sizes(example, axes):
        inputs[name] = resized(example, axes, sizes)
    return inputs


def fresh_inputs(model: MarkedModel, seed: int) -> Inputs:
    """Inputs of the example's sizes that it did not hold: rows drawn anew, numbers perturbed.

    Integers are shuffled within their input, so token ids stay ids the model knows.
    """
    generator = torch.Generator().manual_seed(seed)

    def fresh(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            order = torch.randperm(x.numel(), generator=generator)
            return x.reshape(-1)[order].reshape(x.shape)
        spread = float(x.std()) if x.numel() > 1 else 1.0
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32) * spread
        return (x[torch.randperm(x.shape[0], generator=generator)] + 0.25 * noise).to(x.dtype)

    return {name: fresh(x) for name, x in model.loaded.example_inputs.items()}


def _case(
    model: MarkedModel, reference: nn.Module, name: str, inputs: Inputs, names: list[str]
) -> GoldenCase:
    paths = [block.path for block in model.proven]
    try:
        outputs, calls = _run_watched(model.loaded.module, inputs, paths)
    except (RuntimeError, ValueError, IndexError) as error:
        sizes = {key: list(x.shape) for key, x in inputs.items()}
        raise CaptureError(
            f"the eager model refuses sizes that its graph would allow: {error}",
            where=f"inputs of shape {sizes}",
            hint="pass dynamic_shapes with the axes that really vary",
        ) from error
    layers: dict[str, dict[str, Tensor]] = {}
    for path in paths:
        x, y = calls[path]
        rows = x.reshape(-1, x.shape[-1])
        with torch.no_grad():
            layers[path] = {**model.layers[path].watch(rows), "y": y.reshape(len(rows), -1)}
        _layer(reference, path).replayed_ids = layers[path]["topk_ids"]
    with torch.no_grad():
        exact = _tensors(reference(**{key: _widened(x) for key, x in inputs.items()}))
    return GoldenCase(
        name=name,
        inputs={key: _array(x) for key, x in inputs.items()},
        outputs=_by_name(names, _tensors(outputs)),
        outputs_reference=_by_name(names, exact),
        layers={
            block.name: _layer_tensors(block, layers[block.path], _layer(reference, block.path))
            for block in model.proven
        },
    )


def _run_watched(
    module: nn.Module, inputs: Inputs, paths: list[str]
) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
    """The module's output, and what went in and out of each block."""
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(path: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            (x,) = _tensors((args, kwargs))
            rows = x.shape[:-1].numel()
            y = next(t for t in _tensors(output) if t.dim() > 1 and t.shape[:-1].numel() == rows)
            calls.setdefault(path, (x.clone(), y.clone()))

        return hook

    handles = [
        module.get_submodule(p).register_forward_hook(watch(p), with_kwargs=True) for p in paths
    ]
    try:
        with torch.no_grad():
            return module(**inputs), calls
    finally:
        for handle in handles:
            handle.remove()


def _reference_model(model: MarkedModel) -> nn.Module:
    """The whole model in float64, its proven blocks replaced by layers that can replay."""
    twin = copy.deepcopy(model.loaded.module).double()
    for block in model.proven:
        layer = model.real_layer(block.path, torch.float64)
        if not isinstance(layer, nn.Module):
            raise TypeError(f"the layer at {block.path!r} is not a module")
        if not block.path:
            return layer
        twin.set_submodule(block.path, layer)
    return twin


def _layer(module: nn.Module, path: str) -> MoELayer:
    return cast(MoELayer, module.get_submodule(path))


def _layer_tensors(
    block: BlockRecord, eager: Mapping[str, Tensor], reference: MoELayer
) -> LayerTensors:
    exact = reference.seen
    bias = None if reference.correction_bias is None else _array(reference.correction_bias)
    logits, exact_logits = _array(eager["router_logits"]), _array(exact["router_logits"])
    router = _proven_layer(block).router
    # Without groups all experts have a score; their noise doubles where a group's is a sum of two.
    ungrouped = replace(router, num_groups=1, topk_groups=1)
    scores, exact_scores = (
        selecting_scores(given, ungrouped, correction_bias=bias) for given in (logits, exact_logits)
    )
    return LayerTensors(
        margin=routing_margin(logits, router, correction_bias=bias),
        noise=2 * np.abs(scores - exact_scores).max(axis=1, initial=0.0),
        x=_array(eager["x"]),
        y=_array(eager["y"]),
        router_logits=_array(eager["router_logits"]),
        topk_ids=_array(eager["topk_ids"]),
        topk_weights=_array(eager["topk_weights"]),
        x_reference=_array(exact["x"]),
        y_reference=_array(exact["y"]),
        router_logits_reference=_array(exact["router_logits"]),
        topk_weights_reference=_array(exact["topk_weights"]),
    )


def _expert_case(model: MarkedModel, block: BlockRecord) -> ExpertCase:
    """Synthetic tokens that visit every expert in every place of the top-k."""
    layer_spec = _proven_layer(block)
    experts, top_k = layer_spec.experts, layer_spec.router.top_k
    generator = torch.Generator().manual_seed(30)
    tokens = 2 * experts.num_experts
    x = torch.randn(tokens, experts.hidden_size, generator=generator)
    ids = (torch.arange(tokens).reshape(-1, 1) + torch.arange(top_k)) % experts.num_experts
    weights = torch.rand(tokens, top_k, generator=generator).add(0.5) / top_k
    runs = []
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            layer = model.real_layer(block.path, dtype)
            runs.append(layer.mix(x.to(dtype), ids.int(), weights.to(dtype)))
    return ExpertCase(
        x=_array(x),
        topk_ids=_array(ids.int()),
        topk_weights=_array(weights),
        y=_array(runs[0]),
        y_reference=_array(runs[1]),
    )


def _proven_layer(block: BlockRecord) -> LayerSpec:
    if block.layer is None:
        raise AssertionError(f"proven block {block.path!r} has no layer")
    return block.layer


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _by_name(names: list[str], tensors: list[Tensor]) -> dict[str, Array]:
    return {name: _array(tensor) for name, tensor in zip(names, tensors, strict=True)}


def _widened(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _array(tensor: Tensor) -> Array:
    """A NumPy copy; half precision is widened, which loses nothing."""
    if tensor.is_floating_point() and tensor.dtype is not torch.float64:
        tensor = tensor.float()
    return np.array(tensor.detach().numpy(), copy=True)
