"""Graphs for TensorRT: what its parser needs said, and what it would spoil."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from moe_export.errors import UnsupportedError
from moe_export.forms import Component, Weight
from moe_export.lower import trt
from moe_export.moe import reference
from moe_export.moe.layer import ExpertsSpec, RouterSpec
from moe_export.moe.quantize import parse_precision, quantize

# Two layers; the second is one linear layer an expert, with a bias and no first matrix.
LAYERS = """
<ir_version: 10, opset_import: ["" : 21, "moe_export" : 1]>
layers (float[T,6] x, float[T,3] logits) => (float[T,6] z)
{{
    weights, ids = moe_export.Router <top_k = 2> (logits)
    y = moe_export.Experts <gate_layout = "interleaved" {storage}> ({inputs})
    z = moe_export.Experts <gated = 0, activation = "identity">
        (y, ids, weights, , last, , bias)
}}
"""
ROWS = "x, ids, weights, up, down"
QUANTIZED = f"{ROWS}, , , up_scales, , down_scales"


def weight_of(array: np.ndarray) -> Weight:
    return Weight(
        shape=array.shape,
        dtype=array.dtype,
        sources=("s",),
        read=lambda: array,
        rows=lambda start, stop: array[start:stop],
    )


def component(arrays: Mapping[str, np.ndarray], inputs: str, storage: str) -> Component:
    proto = onnx.parser.parse_model(LAYERS.format(inputs=inputs, storage=storage))
    for place, node in enumerate(proto.graph.node):
        node.name = f"layer{place}/{node.op_type}"
    graph = ir.from_proto(proto)
    for name, array in arrays.items():
        value = next(v for n in graph.graph for v in n.inputs if v is not None and v.name == name)
        value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        value.shape = ir.Shape(array.shape)
        graph.graph.initializers[name] = value
    weights = {name: weight_of(array) for name, array in arrays.items()}
    return Component(graph=graph, weights=weights, probes={})


@pytest.fixture
def numbers() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shapes = {"up": (3, 10, 6), "down": (3, 6, 5), "last": (3, 6, 6), "bias": (3, 6)}
    return {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def stored(numbers: Mapping[str, np.ndarray], precision: str) -> dict[str, np.ndarray]:
    made = dict(numbers)
    for name in ("up", "down"):
        parts = quantize(numbers[name], parse_precision(precision))
        made |= {name: parts.values, f"{name}_scales": parts.scales}
    return made


def attributes(node: ir.Node) -> dict[str, object]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def run(made: Component, x: np.ndarray, logits: np.ndarray) -> np.ndarray:
    graph = made.graph.clone()
    for name, value in graph.graph.initializers.items():
        value.const_value = ir.tensor(made.weights[name].read())
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    return session.run(None, {"x": x, "logits": logits})[0]


def test_a_plugin_s_node_says_all_that_the_parser_asks(numbers):
    lowered = trt.lower_component(component(numbers, ROWS, "")).component
    router, experts, linear = trt.engine_graph(lowered.graph).graph
    named = {"plugin_namespace": "moe_export", "plugin_version": "1"}
    assert attributes(router).items() >= named.items()
    assert attributes(router)["input_names"] == "router_logits"
    assert attributes(experts)["input_names"] == "x,topk_ids,topk_weights,up,down"
    assert attributes(linear)["input_names"] == "x,topk_ids,topk_weights,down,down_bias"
    assert [value.name for value in linear.inputs] == ["y", "ids", "weights", "last", "bias"]
    assert attributes(experts)["activation"] == "silu"  # a default, which the parser does not know


def test_the_engine_s_graph_has_no_function_that_could_stand_in_for_a_plugin(numbers):
    lowered = trt.lower_component(component(numbers, ROWS, "")).component
    assert lowered.graph.functions
    assert not trt.engine_graph(lowered.graph).functions
    assert trt.plugin_names(lowered.graph) == ("layer0/Router", "layer1/Experts", "layer2/Experts")


def test_gates_first_is_the_same_layer(numbers):
    given = component(numbers, ROWS, "")
    lowered = trt.lower_component(given).component
    np.testing.assert_array_equal(lowered.weights["up"].part(1, 3)[:, :5], numbers["up"][1:3, 0::2])
    random = np.random.default_rng(4)
    x, logits = random.standard_normal((2, 7, 6)).astype(np.float32)
    logits = logits[:, :3].copy()
    weights, ids = reference.route(logits, RouterSpec(num_experts=3, top_k=2))
    spec = partial(ExpertsSpec, num_experts=3, hidden_size=6, output_size=6)
    y = reference.experts(
        x,
        ids,
        weights,
        spec(intermediate_size=5, gate_layout="interleaved"),
        up=numbers["up"],
        down=numbers["down"],
    )
    z = reference.experts(
        y,
        ids,
        weights,
        spec(intermediate_size=0, gated=False, activation="identity", has_down_bias=True),
        down=numbers["last"],
        down_bias=numbers["bias"],
    )
    np.testing.assert_allclose(run(lowered, x, logits), z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8@bf16", "int8:32@bf16", "int4@bf16"])
def test_scales_become_bfloat16_and_stay_the_same_numbers(numbers, precision):
    parsed = parse_precision(precision)
    storage = (
        f', weight_format = "{parsed.format}", block_size = {parsed.block_size},'
        f' row_format = "{parsed.row_format}"'
    )
    arrays = stored(numbers, precision)
    if parsed.format == "int4":  # rows of five would end within a byte
        arrays["down"] = arrays["down"][..., :4]
        arrays["up"] = arrays["up"][:, :8]
        arrays["up_scales"] = arrays["up_scales"][:, :8]
    given = component(arrays, QUANTIZED, storage)
    lowered = trt.lower_component(given).component
    scales = lowered.weights["up_scales"]
    assert scales.dtype == ml_dtypes.bfloat16
    turned = np.concatenate([arrays["up_scales"][:, 0::2], arrays["up_scales"][:, 1::2]], axis=1)
    np.testing.assert_array_equal(scales.read().astype(np.float32), turned)
    assert lowered.graph.graph.initializers["up_scales"].dtype == ir.DataType.BFLOAT16


def test_the_passes_do_nothing_twice(numbers):
    lowered = trt.lower_component(component(numbers, ROWS, "")).component
    graph = lowered.graph.clone()
    again = trt.give_narrow_scales(graph, trt.give_gates_first(graph, lowered.weights))
    assert again == lowered.weights
    assert ir.to_proto(graph) == ir.to_proto(lowered.graph)


@pytest.mark.parametrize(
    ("changes", "storage", "inputs", "words"),
    [
        ({}, ', row_format = "int8"', ROWS, "f32 weights with rows of int8"),
        ({}, ', row_format = "bf16"', ROWS, "f32 weights with rows of bf16"),
        ({}, "", f"{ROWS}, , , , zeros", "zero points"),
        ({}, ", block_size = 2147483648", ROWS, "more bits than the 32"),
        ({"up": np.zeros((3, 10, 6), np.uint8)}, "", ROWS, "32 bits of each byte"),
        ({"down": np.zeros((3, 6, 5), ml_dtypes.int4)}, "", ROWS, "end within a byte"),
    ],
)
def test_what_the_plugins_cannot_do_is_refused_by_name(numbers, changes, storage, inputs, words):
    arrays = numbers | changes
    if "zeros" in inputs:
        arrays["zeros"] = np.zeros((3, 10, 1), np.int8)
    with pytest.raises(UnsupportedError, match=words) as caught:
        trt.lower_component(component(arrays, inputs, storage))
    assert "layer1/Experts" in str(caught.value.where)


def test_scales_that_bfloat16_does_not_hold_are_refused(numbers):
    arrays = stored(numbers, "int8@bf16")
    arrays["up_scales"] = arrays["up_scales"] * np.float32(1.001)
    storage = ', weight_format = "int8", row_format = "bf16"'
    lowered = trt.lower_component(component(arrays, QUANTIZED, storage)).component
    with pytest.raises(UnsupportedError, match="scales that bfloat16 does not hold"):
        lowered.weights["up_scales"].read()
