"""Every pass over a graph looks right, means the same, and does nothing the second time.

``<pass>/<case>.onnxtxt`` goes in and ``<pass>/<case>.expected`` must come out.  After a change that
is meant, ``UPDATE_GOLDEN=1 pytest tests/golden`` writes the new texts for you to read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from moe_export.capture.clean import clean, take_probes
from moe_export.capture.fuse import fuse
from moe_export.capture.linear import use_linear
from moe_export.capture.looped import name_passes
from moe_export.forms import Weight
from moe_export.lower.standard import give_functions
from moe_export.moe import reference
from moe_export.moe.layer import ExpertsSpec, RouterSpec

HERE = Path(__file__).parent
AXES = {("x", 0): "batch", ("x", 1): "sequence"}
PASSES: dict[str, Callable[[ir.Model], object]] = {
    "clean": lambda model: clean(model, AXES),
    "fuse": fuse,
    "linear": lambda model: use_linear(model, weights_of(model)),
    "looped": name_passes,
    "probes": take_probes,
    "functions": give_functions,
}
CASES = [(path.parent.name, path) for path in sorted(HERE.glob("*/*.onnxtxt"))]
every_case = pytest.mark.parametrize(
    ("name", "path"), CASES, ids=[f"{name}-{path.stem}" for name, path in CASES]
)

# What a probe is while it stands in a graph.
_PROBE = """<domain: "moe_export", opset_import: ["" : 21]> Probe <name> (x) => (y)
{ y = Identity (x) }"""


def read(path: Path) -> onnx.ModelProto:
    return onnx.parser.parse_model(path.read_text())


def after(name: str, proto: onnx.ModelProto) -> onnx.ModelProto:
    model = ir.from_proto(proto)
    PASSES[name](model)
    return ir.to_proto(model)


def text(proto: onnx.ModelProto) -> str:
    return onnx.printer.to_text(proto).rstrip() + "\n"


def run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    runnable = onnx.ModelProto()
    runnable.CopyFrom(proto)
    if any(node.op_type == "Probe" for node in proto.graph.node):
        runnable.functions.append(onnx.parser.parse_function(_PROBE))
    if {node.op_type for node in proto.graph.node} & {"Linear", "CachedAttention"}:
        model = ir.from_proto(proto)
        give_functions(model)
        runnable = ir.to_proto(model)
    session = onnxruntime.InferenceSession(
        runnable.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def inputs_for(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    random = np.random.default_rng(6)
    sizes = {"s0": 2, "s1": 3, "batch": 2, "sequence": 3, "past": 4, "both": 7, "T": 5}
    made = {
        value.name: random.standard_normal(
            [dim.dim_value or sizes[dim.dim_param] for dim in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in proto.graph.input
    }
    masks = [v for v in proto.graph.input if v.type.tensor_type.elem_type == onnx.TensorProto.BOOL]
    return made | {mask.name: made[mask.name] > -0.5 for mask in masks}


def weights_of(model: ir.Model) -> dict[str, Weight]:
    """The initializers, as a capture would hold them."""
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {
        name: Weight(shape=t.shape.numpy(), dtype=t.dtype.numpy(), sources=(name,), read=t.numpy)
        for name, t in tensors.items()
        if t is not None
    }


@every_case
def test_the_result_looks_right(name: str, path: Path) -> None:
    made = text(after(name, read(path)))
    expected = path.with_suffix(".expected")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(made)
    assert made == expected.read_text()


@every_case
def test_the_result_means_the_same(name: str, path: Path) -> None:
    before = read(path)
    inputs = inputs_for(before)
    expected = oracle(inputs, before) if name == "functions" else run(before, inputs)
    made = run(after(name, before), inputs)
    assert len(made) == len(expected)
    for one, other in zip(made, expected, strict=True):
        # Four terms a sum, values below 8: a few units in the last place of the largest.
        assert np.abs(one - other).max() <= 16 * np.finfo(np.float32).eps * np.abs(other).max()


@every_case
def test_a_second_run_leaves_the_graph_alone(name: str, path: Path) -> None:
    once = after(name, read(path))
    assert text(after(name, once)) == text(once)


def oracle(inputs: dict[str, np.ndarray], proto: onnx.ModelProto) -> list[np.ndarray]:
    """The ops of ``functions/one_layer.onnxtxt`` in NumPy: before the pass nothing can run them."""
    router = RouterSpec(num_experts=3, top_k=2, normalize=True)
    experts = ExpertsSpec(num_experts=3, hidden_size=4, intermediate_size=3, output_size=4)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    topk_weights, topk_ids = reference.route(inputs["logits"], router)
    return [reference.experts(inputs["x"], topk_ids, topk_weights, experts, **weights)]
