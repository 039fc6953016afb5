"""Make a traced graph fit to be read and shipped: no machine paths, dead nodes or tracer names."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from moe_export.capture.axes import Axes
from moe_export.capture.fuse import fuse
from moe_export.capture.linear import use_linear
from moe_export.capture.repeats import PROBE
from moe_export.forms import MAIN_COMPONENT, Weight
from moe_export.moe.schema import DOMAIN

# Constants up to this many bytes are folded; larger results would turn arithmetic into weights.
_FOLD_BYTES = 4096


def clean(
    graph: ir.Model,
    axes: Axes,
    weights: Mapping[str, Weight] | None = None,
    name: str = MAIN_COMPONENT,
) -> None:
    """Fold shapes, drop what is unused, name the symbolic axes and forget where it was traced.

    *Requires* the exporter's graph.  *Ensures* that inputs, outputs and probes keep their names
    and that nothing of the machine is left in metadata.
    """
    _name_axes(graph, axes)
    optimizer.fold_constants(graph, input_size_limit=_FOLD_BYTES, output_size_limit=_FOLD_BYTES)
    fuse(graph)
    use_linear(graph, weights or {})
    ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.TopologicalSortPass(),
    )(graph)
    graph.producer_name, graph.producer_version = "moe-export", None
    graph.graph.name = name


def take_probes(graph: ir.Model) -> dict[str, dict[str, str]]:
    """Remove the probe nodes and return, by layer and role, the names of what they watched.

    Each watched value is named ``<layer>/<role>``; one that is watched twice keeps its first name,
    and one that the model returns has the output's.
    """
    watched: dict[str, dict[str, ir.Value]] = {}
    named: set[int] = set()
    for node in [n for n in graph.graph if n.domain == DOMAIN and n.op_type == PROBE]:
        label = node.attributes["name"].as_string()
        layer, _, role = label.rpartition("/")
        value, output = node.inputs[0], node.outputs[0]
        if value is None:
            raise AssertionError(f"probe {label} watches nothing")
        if output.is_graph_output():
            if _is_boundary(value):
                node.domain, node.op_type = "", "Identity"
                node.attributes.clear()
                watched.setdefault(layer, {})[role] = output
                continue
            value.name = output.name
            value.type, value.shape = output.type, output.shape
            named.add(id(value))
        elif id(value) not in named and not _is_boundary(value):
            value.name = label
            named.add(id(value))
        ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
        graph.graph.remove(node, safe=True)
        watched.setdefault(layer, {})[role] = value
    return {
        layer: {role: str(value.name) for role, value in roles.items()}
        for layer, roles in watched.items()
    }


def name_nodes(graph: ir.Model, probes: Mapping[str, Mapping[str, str]]) -> None:
    """Call each layer's op nodes ``<layer>/Router`` and so on; number the others in order."""
    layers = {
        name: layer
        for layer, roles in probes.items()
        for role, name in roles.items()
        if role in ("topk_ids", "experts_y")
    }
    for number, node in enumerate(graph.graph):
        layer = next((layers[str(v.name)] for v in node.outputs if str(v.name) in layers), None)
        ours = layer is not None and node.domain == DOMAIN
        node.name = f"{layer}/{node.op_type}" if ours else f"{node.op_type}_{number}"


def _is_boundary(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_graph_output() or value.is_initializer()


def _name_axes(graph: ir.Model, axes: Axes) -> None:
    """Give the inputs' symbolic axes their names, here and in every expression made of them."""
    words: dict[str, str] = {}
    for value in graph.graph.inputs:
        if value.shape is None:
            continue
        for axis, size in enumerate(value.shape):
            if isinstance(size, ir.SymbolicDim) and (str(value.name), axis) in axes:
                words[str(size.value)] = axes[str(value.name), axis]
    for value in _values(graph):
        if value.shape is not None and any(isinstance(d, ir.SymbolicDim) for d in value.shape):
            value.shape = ir.Shape([_named(size, words) for size in value.shape])


def _values(graph: ir.Model) -> list[ir.Value]:
    inner = [value for node in graph.graph.all_nodes() for value in node.outputs]
    return [*graph.graph.inputs, *inner]


def _named(size: int | ir.SymbolicDim, words: Mapping[str, str]) -> int | str | None:
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    text = str(size.value)
    for symbol in sorted(words, key=len, reverse=True):
        text = text.replace(symbol, f"\0{list(words).index(symbol)}\0")
    for number, symbol in enumerate(words):
        text = text.replace(f"\0{number}\0", words[symbol])
    return text
