"""The ``ort`` target on a GPU: ONNX Runtime's CUDA provider with this project's kernels.

One graph serves two.  Where the CUDA library is registered its kernels run the MoE nodes, for a
kernel wins over a function; where it is not, ONNX Runtime runs the functions that the graph carries
for the same nodes, so that the bundle is validated where there is no GPU.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_ir.passes.common import InlinePass

from moe_export.forms import Component
from moe_export.lower.gpu_nodes import (
    GPU_OPS,
    give_gates_first,
    give_narrow_scales,
    gpu_nodes,
    require_kernel,
)
from moe_export.lower.standard import Lowered, give_functions


def lower_component(component: Component) -> Lowered:
    """*Requires* that the matrices of ``moe_export`` nodes are weights of the component.

    *Ensures* that the weights of each node of ``GPU_OPS`` are rows, gates before values, with
    scales of bfloat16; that the graph carries its function; and that no other ``moe_export`` node
    is left.  Raises ``UnsupportedError`` for what GPU kernels cannot do.
    """
    graph = component.graph.clone()
    for node in gpu_nodes(graph):
        require_kernel(node, component.weights)
    weights = give_narrow_scales(graph, give_gates_first(graph, component.weights))
    functions = give_functions(graph)
    InlinePass(criteria=lambda function: function.name not in GPU_OPS)(graph)
    kept = {key: words for key, words in functions.items() if key.partition(":")[0] in GPU_OPS}
    return Lowered(component=replace(component, graph=graph, weights=weights), functions=kept)
