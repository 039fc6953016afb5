"""The two passes that change how weights are stored: what they do to a graph and its weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from moe_export.capture.precision import give_precision
from moe_export.forms import Weight
from moe_export.lower.ort import give_panels
from moe_export.lower.standard import give_functions
from moe_export.moe import reference
from moe_export.moe.layer import ExpertsSpec
from moe_export.moe.packing import unpack
from moe_export.moe.quantize import Precision, parse_precision, quantize
from moe_export.ondisk import Spool

# Two layers that share their second matrix; H 6, I 5, E 3.
LAYERS = """
<ir_version: 10, opset_import: ["" : 21, "moe_export" : 1]>
layers (float[T,6] x, int32[T,2] ids, float[T,2] weights) => (float[T,6] y)
{
    one = moe_export.Experts <gate_layout = "interleaved"> (x, ids, weights, up, down)
    y = moe_export.Experts <gated = 0, activation = "relu"> (one, ids, weights, other, down)
}
"""
SHAPES = {"up": (3, 10, 6), "other": (3, 5, 6), "down": (3, 6, 5)}
PRECISIONS = ("bf16", "f16", "int8", "int4:64+zeros")


def model() -> ir.Model:
    proto = onnx.parser.parse_model(LAYERS)
    for name, shape in SHAPES.items():
        tensor = onnx.helper.make_tensor(
            name, onnx.TensorProto.FLOAT, shape, np.zeros(np.prod(shape))
        )
        proto.graph.initializer.append(tensor)
    made = ir.from_proto(proto)
    for value in made.graph.initializers.values():
        value.const_value = None
    return made


@pytest.fixture
def weights() -> dict[str, Weight]:
    random = np.random.default_rng(5)

    def weight(shape: tuple[int, ...]) -> Weight:
        array = random.standard_normal(shape).astype(np.float32)
        return Weight(shape=shape, dtype=array.dtype, sources=("s",), read=lambda: array)

    return {name: weight(shape) for name, shape in SHAPES.items()}


def text(graph: ir.Model) -> str:
    return onnx.printer.to_text(ir.to_proto(filled(graph)))


def filled(graph: ir.Model, weights: Mapping[str, Weight] | None = None) -> ir.Model:
    """A copy whose initializers have their values, or zeros."""
    copy = graph.clone()
    for name, value in copy.graph.initializers.items():
        shape, dtype = tuple(value.shape), value.dtype.numpy()
        array = np.zeros(shape, dtype) if weights is None else weights[name].read()
        assert (array.shape, array.dtype) == (shape, dtype)
        value.const_value = ir.Tensor(array, name=name)
    return copy


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rounded_experts_mean_what_the_oracle_says(
    weights: dict[str, Weight], precision: str
) -> None:
    graph, chosen = model(), parse_precision(precision)
    stored = give_precision(graph, weights, chosen, Spool())
    give_functions(graph)
    proto = ir.to_proto(filled(graph, stored))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(6)
    x = random.standard_normal((7, 6)).astype(np.float32)
    ids = random.integers(0, 3, (7, 2)).astype(np.int32)
    scale = random.random((7, 2)).astype(np.float32)
    (made,) = session.run(None, {"x": x, "ids": ids, "weights": scale})
    one = oracle(x, ids, scale, chosen, weights, up="up")
    expected = oracle(one, ids, scale, chosen, weights, up="other")
    # Ten products and sums in each of two layers, none near a rounding edge with these numbers.
    assert np.abs(made - expected).max() <= 64 * np.finfo(np.float32).eps * np.abs(expected).max()


def oracle(
    x: np.ndarray,
    ids: np.ndarray,
    scale: np.ndarray,
    precision: Precision,
    weights: Mapping[str, Weight],
    *,
    up: str,
) -> np.ndarray:
    spec = ExpertsSpec(
        num_experts=3,
        hidden_size=6,
        intermediate_size=5,
        output_size=6,
        gated=up == "up",
        activation="silu" if up == "up" else "relu",
        gate_layout="interleaved" if up == "up" else "concatenated",
        weight_format=precision.format,
        block_size=precision.block_size,
        row_format=precision.row_format,
    )
    parts = {}
    for role, name in (("up", up), ("down", "down")):
        made = quantize(weights[name].read(), precision)
        parts |= {role: made.values, f"{role}_scales": made.scales, f"{role}_zeros": made.zeros}
    return reference.experts(x, ids, scale, spec, **parts)


def test_a_shared_matrix_is_stored_once_and_both_layers_read_it(
    weights: dict[str, Weight],
) -> None:
    graph = model()
    stored = give_precision(graph, weights, parse_precision("int8+zeros"), Spool())
    parts = {f"{name}{part}" for name in SHAPES for part in ("", ".scales", ".zeros")}
    assert stored.keys() == graph.graph.initializers.keys() == parts
    one, other = graph.graph
    assert one.inputs[4] is other.inputs[4]
    assert [one.inputs[i] is other.inputs[i] for i in (9, 10)] == [True, True]
    packed = give_panels(graph, stored)
    assert packed.keys() == graph.graph.initializers.keys() == SHAPES.keys()
    assert one.inputs[4] is other.inputs[4]
    assert len(one.inputs) == 5


@pytest.mark.parametrize("precision", ["f32", *PRECISIONS])
def test_panels_hold_the_stored_weight_gates_apart_from_values(
    weights: dict[str, Weight], precision: str
) -> None:
    graph, chosen = model(), parse_precision(precision)
    stored = give_precision(graph, weights, chosen, Spool())
    packed = give_panels(graph, stored)
    for name in SHAPES:
        expected = quantize(weights[name].read(), chosen)
        order = np.r_[0:10:2, 1:10:2] if name == "up" else slice(None)
        blob = packed[name].read()
        assert (blob.shape, blob.dtype) == (packed[name].shape, packed[name].dtype)
        values, scales, zeros, header = unpack(blob)
        assert header.gated == (name == "up")
        np.testing.assert_array_equal(values, expected.values[:, order])
        for made, part in ((scales, expected.scales), (zeros, expected.zeros)):
            if part is not None:
                np.testing.assert_array_equal(made, part[:, order])


def test_a_second_run_of_either_pass_leaves_the_graph_alone(weights: dict[str, Weight]) -> None:
    graph, precision = model(), parse_precision("int4+zeros")
    stored = give_precision(graph, weights, precision, Spool())
    once = text(graph)
    assert give_precision(graph, stored, precision, Spool()) == stored
    assert text(graph) == once
    packed = give_panels(graph, stored)
    once = text(graph)
    assert give_panels(graph, packed) == packed
    assert text(graph) == once


def test_the_model_s_own_numbers_are_left_alone(weights: dict[str, Weight]) -> None:
    graph = model()
    before = text(graph)
    assert give_precision(graph, weights, parse_precision("f32"), Spool()) == weights
    assert text(graph) == before


def test_a_matrix_that_something_else_reads_is_not_rounded(weights: dict[str, Weight]) -> None:
    graph = model()
    shared = graph.graph.initializers["down"]
    node = ir.Node("", "Identity", [shared])
    graph.graph.append(node)
    with pytest.raises(AssertionError, match="'down' is no product's"):
        give_precision(graph, weights, parse_precision("int8"), Spool())
