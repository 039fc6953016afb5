"""Heads that are normed and turned become one node of the same meaning, where they may."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from moe_export.forms import Array
from moe_export.lower.heads import use_rotary_heads
from moe_export.runtime import kernels

GRAPH = """
<ir_version: 10, opset_import: ["" : 23]>
heads (float[B,S,{width}] x, float[B,S,{half}] cos, float[B,S,{half}] sin)
    => (float[B,S,{width}] y{more})
    <float[B,S,{heads},{size}] apart, float[B,S,{heads},{size}] normed, float[B,S,{width}] turned,
     int64[4] by_head = {{0, 0, -1, {size}}}, int64[3] together = {{0, 0, -1}},
     float[{size}] norm = {{{norm}}}>
{{
    apart = Reshape (x, by_head)
    {norm_node}
    flat = Reshape (normed, together)
    turned = RotaryEmbedding <num_heads = {heads}{rotary}> (flat, cos, sin)
    y = Neg (turned)
    {more_nodes}
}}
"""
RMS = "normed = RMSNormalization <axis = -1, epsilon = 0.01> (apart, norm)"


def graph(
    heads: int = 3,
    size: int = 6,
    half: int = 3,
    norm_node: str = RMS,
    rotary: str = "",
    **more: str,
) -> ir.Model:
    """``heads`` heads of ``size`` numbers, of which twice ``half`` are turned."""
    text = GRAPH.format(
        heads=heads,
        size=size,
        half=half,
        width=heads * size,
        norm=", ".join(str(1 + n / 8) for n in range(size)),
        norm_node=norm_node,
        rotary=rotary,
        **{"more": "", "more_nodes": "", **more},
    )
    return ir.from_proto(onnx.parser.parse_model(text))


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: ir.Model, inputs: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    kernels.register(options)
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def require_the_same(before: ir.Model, after: ir.Model) -> None:
    sizes = [value.shape[-1] for value in before.graph.inputs]
    for batch, length in ((1, 1), (2, 70)):
        random = np.random.default_rng(length)
        inputs = {
            str(value.name): random.standard_normal((batch, length, size)).astype(np.float32)
            for value, size in zip(before.graph.inputs, sizes, strict=True)
        }
        for one, other in zip(run(before, inputs), run(after, inputs), strict=True):
            # Some dozen roundings of numbers below 16.
            assert one.shape == other.shape
            assert np.abs(one - other).max() <= 200 * np.finfo(np.float32).eps


@pytest.mark.parametrize(
    ("changes", "has_norm"),
    [
        ({}, True),
        ({"size": 40, "half": 20}, True),
        ({"size": 12, "half": 4, "rotary": ", rotary_embedding_dim = 8"}, True),
        ({"norm_node": "normed = Identity (apart)"}, False),
    ],
)
def test_heads_that_are_normed_and_turned_are_one_node(changes: dict, has_norm: bool) -> None:
    before = graph(**changes)
    ir.passes.common.IdentityEliminationPass()(before)
    after = before.clone()
    use_rotary_heads(after)
    assert kinds(after) == ["RotaryHeads", "Neg"]
    node = after.graph[0]
    assert node.outputs[0].name == "turned"
    assert len(node.inputs) == (4 if has_norm else 3)
    require_the_same(before, after)
    once = onnx.printer.to_text(ir.to_proto(after))
    use_rotary_heads(after)
    assert onnx.printer.to_text(ir.to_proto(after)) == once


OTHERS = {
    "pairs side by side": {"rotary": ", interleaved = 1"},
    "a norm of the whole row": {
        "norm_node": "normed = RMSNormalization <axis = 2> (apart, norm_of_all)",
    },
    "another reader of what is normed": {
        "more": ", float[B,S,3,6] other",
        "more_nodes": "other = Neg (normed)",
    },
    "another reader of the heads": {
        "more": ", float[B,S,3,6] other",
        "more_nodes": "other = Neg (apart)",
    },
    "another operator between": {"norm_node": "normed = Abs (apart)"},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_other_arithmetic_stays(changes: dict) -> None:
    model = graph(**changes)
    if "norm_of_all" in changes.get("norm_node", ""):
        model.graph.initializers["norm"].name = "norm_of_all"
    before = kinds(model)
    use_rotary_heads(model)
    assert kinds(model) == before


@pytest.mark.parametrize("watched", ["apart", "normed", "flat"])
def test_what_is_watched_stays(watched: str) -> None:
    model = graph()
    before = kinds(model)
    use_rotary_heads(model, {watched})
    assert kinds(model) == before
