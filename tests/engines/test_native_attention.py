"""``CachedAttention`` around ONNX's ``Attention`` is what the op is defined to be."""

from __future__ import annotations

import onnx_ir as ir
import onnxruntime as ort
import pytest

from moe_export.forms import Component
from moe_export.lower import trt
from moe_export.lower.native_attention import FIRST_OPSET, attention_body
from moe_export.moe import tolerance
from ops import runtimes
from ops.graphs import node_model, options
from ops.test_agreement import require_agreement
from problems import Problem, attention_problems

# ONNX Runtime's Attention takes one query at least, and so does a decoder's engine.
PROBLEMS = {
    str(problem): problem for problem in attention_problems() if problem.inputs["query"].shape[1]
}


def in_onnx_runtime(problem: Problem) -> runtimes.Outputs:
    scale = float(problem.attributes.get("scale", 0.0))
    body = attention_body(scale, overload="native", opset=FIRST_OPSET)
    model = node_model(
        problem.op, problem.attributes, problem.inputs, function=body, opset_version=FIRST_OPSET
    )
    session = ort.InferenceSession(model.SerializeToString(), options(), ["CPUExecutionProvider"])
    return tuple(session.run(None, dict(problem.inputs)))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_native_body_agrees_with_the_float64_oracle(name: str) -> None:
    problem = PROBLEMS[name]
    exact = runtimes.reference_f64(problem)
    require_agreement(problem, in_onnx_runtime(problem), exact, tolerance.FLOAT32_EPS)


@pytest.mark.parametrize(("opset", "whole"), [(FIRST_OPSET, True), (FIRST_OPSET - 1, False)])
def test_an_engine_attends_as_a_whole_where_its_opset_can(opset: int, whole: bool) -> None:
    problem = next(iter(PROBLEMS.values()))
    model = node_model(problem.op, problem.attributes, problem.inputs, opset_version=opset)
    component = Component(graph=ir.serde.deserialize_model(model), weights={}, probes={})
    made = [node.op_type for node in trt.lower_component(component).component.graph.graph]
    assert made.count("Attention") == whole
    assert ("Softmax" in made) != whole
