"""Products of the same rows become one: to the bit, and only those that may."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from moe_export.capture.precision import DENSE, give_precision
from moe_export.forms import Array, Weight
from moe_export.lower.joined import join_products
from moe_export.lower.ort import give_panels
from moe_export.moe.quantize import parse_precision
from moe_export.ondisk import Spool
from moe_export.runtime import kernels

ATTENTION = """
<ir_version: 10, opset_import: ["" : 21, "moe_export" : 1]>
attention (float[B,S,70] x) => (float[B,S,5] q2, float[B,S,17] k2, float[B,S,33] v2)
{
    q = moe_export.Linear (x, "layers.0.q.weight")
    q2 = Neg (q)
    k = moe_export.Linear (x, "layers.0.k.weight")
    k2 = Neg (k)
    v = moe_export.Linear (x, "layers.0.v.weight")
    v2 = Neg (v)
}
"""
ATTENTION_ROWS = {"layers.0.q.weight": 5, "layers.0.k.weight": 17, "layers.0.v.weight": 33}
JOINED = "layers.0.q+k+v.weight"


def graph_of(text: str, weights: Mapping[str, Weight]) -> ir.Model:
    """The graph, whose initializers have forms and no bytes."""
    proto = onnx.parser.parse_model(text)
    for name, weight in weights.items():
        tensor = onnx.numpy_helper.from_array(np.zeros(weight.shape, np.float32), name)
        proto.graph.initializer.append(tensor)
    model = ir.from_proto(proto)
    for value in model.graph.initializers.values():
        value.const_value = None
    return model


def weights_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Weight]:
    random = np.random.default_rng(3)
    arrays = {name: random.standard_normal(s).astype(np.float32) for name, s in shapes.items()}

    def weight(name: str) -> Weight:
        array = arrays[name]
        return Weight(
            shape=array.shape,
            dtype=array.dtype,
            sources=(name,),
            read=lambda: array,
            rows=lambda start, stop: array[start:stop],
            origin=name,
        )

    return {name: weight(name) for name in shapes}


def attention() -> tuple[ir.Model, dict[str, Weight]]:
    weights = weights_of({name: (rows, 70) for name, rows in ATTENTION_ROWS.items()})
    return graph_of(ATTENTION, weights), weights


def products(graph: ir.Model) -> list[str]:
    """The matrices of all products."""
    return [str(n.inputs[1].name) for n in graph.graph if n.op_type == "Linear"]


def run(graph: ir.Model, weights: Mapping[str, Weight], x: Array) -> list[Array]:
    filled = graph.clone()
    for name, value in filled.graph.initializers.items():
        value.const_value = ir.Tensor(weights[name].read(), name=name)
    options = onnxruntime.SessionOptions()
    kernels.register(options)
    session = onnxruntime.InferenceSession(
        ir.to_proto(filled).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"x": x}))


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8", "int4:32+zeros"])
def test_results_keep_their_bits(precision: str) -> None:
    graph, weights = attention()
    weights = give_precision(graph, weights, parse_precision(precision), Spool(), DENSE)
    joined = graph.clone()
    weights_joined = join_products(joined, weights)
    assert products(joined) == [JOINED]
    assert set(joined.graph.initializers) == set(weights_joined)
    weights, weights_joined = give_panels(graph, weights), give_panels(joined, weights_joined)
    for rows in (0, 1, 40):
        x = np.random.default_rng(rows).standard_normal((2, rows, 70)).astype(np.float32)
        for one, other in zip(run(graph, weights, x), run(joined, weights_joined, x), strict=True):
            assert one.shape == other.shape
            np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


def test_values_keep_their_names_and_weights_their_sources() -> None:
    graph, weights = attention()
    made = join_products(graph, weights)
    assert list(made) == [JOINED]
    assert made[JOINED].sources == tuple(ATTENTION_ROWS)
    assert made[JOINED].shape == (55, 70)
    np.testing.assert_array_equal(
        made[JOINED].read(), np.concatenate([each.read() for each in weights.values()])
    )
    np.testing.assert_array_equal(made[JOINED].part(4, 6), made[JOINED].read()[4:6])
    (split,) = (node for node in graph.graph if node.op_type == "Split")
    assert [value.name for value in split.outputs] == ["q", "k", "v"]


def test_weights_of_equal_origins_have_equal_joined_ones() -> None:
    (first, weights), (second, _) = attention(), attention()
    made, again = (join_products(graph, weights)[JOINED].origin for graph in (first, second))
    assert made == again is not None
    other = {**weights, "layers.0.k.weight": weights_of({"k": (17, 70)})["k"]}
    assert join_products(attention()[0], other)[JOINED].origin != made


def test_a_second_run_does_nothing() -> None:
    graph, weights = attention()
    made = join_products(graph, weights)
    text = onnx.printer.to_text(ir.to_proto(graph))
    assert join_products(graph, made) == made
    assert onnx.printer.to_text(ir.to_proto(graph)) == text


def test_what_is_watched_stays_alone() -> None:
    graph, weights = attention()
    join_products(graph, weights, {"k"})
    assert products(graph) == ["layers.0.q+v.weight", "layers.0.k.weight"]


ALONE = """
<ir_version: 10, opset_import: ["" : 21, "moe_export" : 1]>
alone (float[T,8] x, float[T,8] y) => (float[T,3] out, float[T,3] z)
{
    out = moe_export.Linear (x, a)
    other_rows = moe_export.Linear (y, b)
    with_bias = moe_export.Linear (x, c, bias)
    rounded = moe_export.Linear <row_format = "bf16"> (x, d)
    shared = moe_export.Linear (x, e)
    turned = Transpose (e)
    product = MatMul (x, turned)
    z = Sum (out, other_rows, with_bias, rounded, shared, product)
}
"""


def test_other_rows_other_meanings_and_what_is_read_elsewhere_stay_alone() -> None:
    weights = weights_of(dict.fromkeys("abcde", (3, 8)) | {"bias": (3,)})
    graph = graph_of(ALONE, weights)
    assert join_products(graph, weights) == weights
    assert products(graph) == list("abcde")


BIASES = """
<ir_version: 10, opset_import: ["" : 21, "moe_export" : 1]>
biases (float[T,8] x) => (float[T,3] z)
{
    one = moe_export.Linear (x, a, a_bias)
    two = moe_export.Linear (x, b, b_bias)
    z = Sub (one, two)
}
"""


def test_biases_are_joined_as_well() -> None:
    weights = weights_of({"a": (3, 8), "b": (3, 8), "a_bias": (3,), "b_bias": (3,)})
    graph = graph_of(BIASES, weights)
    joined = graph.clone()
    made = join_products(joined, weights)
    assert sorted(made) == ["a+b", "a_bias+b_bias"]
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    (one,) = run(graph, give_panels(graph, weights), x)
    (other,) = run(joined, give_panels(joined, made), x)
    np.testing.assert_array_equal(one, other)
