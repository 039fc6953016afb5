"""TensorRT-RTX takes the plugins for nodes of a graph, for every GPU that it knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from moe_export.lower.functions import function_for
from moe_export.moe.layer import ExpertsSpec
from problems import Problem, experts_problem

from . import rtx
from .plugin_harness import GPU_LIBRARY, HOST_LIBRARY, require
from .plugin_nodes import ROW_TYPES, PluginNode, gpu_problems, node_of, on_gpu
from .rtx import Graph, Report

SMS = (80, 86, 89, 120)
SPEC = ExpertsSpec(num_experts=5, hidden_size=64, intermediate_size=32, output_size=24)
WEIGHTS = {"f32": 0, "f16": 0, "bf16": 0, "int8": 0, "int4": 32}
TRT_ROWS = {"f32": "FLOAT", "f16": "HALF", "bf16": "BF16"}
PLAN_TYPES = {"f32": "float", "f16": "half", "bf16": "bf16", "int8": "int8", "int4": "int4"}
BITS = {"f32": 32, "f16": 16, "bf16": 16, "int8": 8, "int4": 4}


def experts_node(weights: str, row_type: str, **changes: object) -> tuple[Problem, PluginNode]:
    spec = replace(SPEC, weight_format=weights, block_size=WEIGHTS[weights], **changes)
    problem = on_gpu(experts_problem(weights, spec), row_type)
    assert problem is not None
    return problem, node_of(problem, row_type)


def experts_model(node: PluginNode, row_type: str, **attributes: object) -> onnx.ModelProto:
    kind = rtx.ONNX_TYPES[np.dtype(ROW_TYPES[row_type])]
    return rtx.model_of(node, outputs=[("y", kind, ["T", 24])], **attributes)


def graph_of(weights: str, row_type: str, *, sm: int = 80, **attributes: object) -> Graph:
    _, node = experts_node(weights, row_type)
    model = experts_model(node, row_type, **attributes)
    return Graph(model=model, sm=sm, profile=rtx.profile_of(node))


def router_node(name: str = "Router-deepseek") -> PluginNode:
    return node_of(gpu_problems()[name])


ROUTER_OUTPUTS = [
    ("topk_weights", TensorProto.FLOAT, ["T", 2]),
    ("topk_ids", TensorProto.INT32, ["T", 2]),
]


def build(graphs: Sequence[Graph], folder: Path, library: Path = HOST_LIBRARY) -> list[Report]:
    require([library])
    return rtx.build(library, graphs, folder)


@pytest.mark.parametrize("library", [HOST_LIBRARY, GPU_LIBRARY], ids=["host", "gpu"])
@pytest.mark.parametrize("sm", SMS)
def test_experts_of_every_type_are_plugins_of_every_target(
    sm: int, library: Path, tmp_path: Path
) -> None:
    cases = [(weights, rows) for weights in WEIGHTS for rows in ROW_TYPES]
    graphs = [graph_of(weights, rows, sm=sm) for weights, rows in cases]
    for (weights, rows), report in zip(cases, build(graphs, tmp_path, library), strict=True):
        assert report.built, (weights, rows, report.errors, report.log)
        (layer,) = report.plugin_layers()
        assert layer["name"] == "layers.0.moe"
        assert layer["outputs"][0]["shape"] == [-1, 24]
        assert layer["outputs"][0]["type"] == TRT_ROWS[rows]
        assert report.plan.startswith(b"vtrt")
        assert report.target() == f"sm{sm}"
        (custom,) = re.findall(r"custom_layer=\{ name=\"([^\"]*)\"", report.text())
        assert custom == "layers.0.moe"
        sizes = {name.split("_constant")[0]: row for name, row in report.constants().items()}
        assert sizes["up"] == (5 * 64 * 64 * BITS[weights] // 8, PLAN_TYPES[weights])
        assert sizes["down"] == (5 * 24 * 32 * BITS[weights] // 8, PLAN_TYPES[weights])
        if weights == "int4":
            assert sizes["up_scales"] == (5 * 64 * 2 * 2, "bf16")


@pytest.mark.parametrize("sm", SMS)
def test_the_other_ops_are_plugins_of_every_target(sm: int, tmp_path: Path) -> None:
    problems = gpu_problems()
    f32, i32 = TensorProto.FLOAT, TensorProto.INT32
    offsets: list[str | int] = [6]
    cases = {
        "Router-deepseek": ROUTER_OUTPUTS,
        "Dispatch-random": [("order", i32, ["S"]), ("expert_offsets", i32, offsets)],
        "GroupedMatMul-random-biased": [("y", f32, ["S", 9])],
        "Combine-random": [("y", f32, ["T", 33])],
    }
    graphs = []
    for name, outputs in cases.items():
        node = node_of(problems[name])
        profile = rtx.profile_of(node)
        graphs.append(Graph(model=rtx.model_of(node, outputs=outputs), sm=sm, profile=profile))
    shapes = []
    for report in build(graphs, tmp_path):
        assert report.built, (report.errors, report.log)
        (layer,) = report.plugin_layers()
        shapes.append([output["shape"] for output in layer["outputs"]])
    assert shapes == [[[-1, 2], [-1, 2]], [[-1], [6]], [[-1, 9]], [[-1, 33]]]


def test_the_workspace_in_the_plan_is_that_of_the_largest_shape(tmp_path: Path) -> None:
    reports = []
    for most in (8, 64):
        _, node = experts_node("f32", "f32")
        model = experts_model(node, "f32")
        graph = Graph(model=model, profile=rtx.profile_of(node, (0, 4, most)))
        reports += build([graph], tmp_path)
    sizes = [re.search(r"dims=\{ (\d+) \}[^\n]*_wksp", report.text()) for report in reports]
    # As plugins/tests/tensorrt/host_cuda.cc asks, and 256 bytes to align it.
    assert [int(size[1]) for size in sizes if size] == [
        most * 2 * (24 + 32) * 4 + 256 for most in (8, 64)
    ]


def test_a_function_body_loses_against_the_plugin(tmp_path: Path) -> None:
    """And wins, without a word, over a node that does not name the plugin's namespace."""
    problem, node = experts_node("f32", "f32", gated=False, activation="relu")
    function = function_for("Experts", problem.attributes, tuple(node.inputs))
    import onnx_ir as ir

    body = ir.to_proto(function)
    # The body has all the schema's inputs; here it is closed up as the node's are.
    kept = [name for name in body.input if name in node.inputs]
    del body.input[:]
    body.input.extend(kept)
    body.name, body.overload = "Experts", ""
    named, bare = (
        rtx.model_of(
            node,
            outputs=[("y", TensorProto.FLOAT, ["T", 24])],
            functions=[body],
            plugin_namespace=namespace,
        )
        for namespace in ("moe_export", None)
    )
    profile = rtx.profile_of(node)
    with_plugin, without = build([Graph(model=m, profile=profile) for m in (named, bare)], tmp_path)
    assert [layer["name"] for layer in with_plugin.plugin_layers()] == ["layers.0.moe"]
    assert without.plugin_layers() == []


def test_two_nodes_in_a_row_are_two_plugins(tmp_path: Path) -> None:
    """Router and Experts as a model has them, the ids never leaving the GPU."""
    _, experts = experts_node("bf16", "bf16")
    model = experts_model(experts, "bf16")
    router = rtx.model_of(router_node("Router-softmax"), outputs=ROUTER_OUTPUTS)
    graph = model.graph
    fed = {value.name: value for value in graph.input}
    for name in ("topk_ids", "topk_weights"):
        graph.input.remove(fed[name])
    graph.input.extend(router.graph.input)
    graph.initializer.extend(router.graph.initializer)
    router_proto = router.graph.node[0]
    router_proto.name = "layers.0.router"
    graph.node.insert(0, router_proto)
    profile = {
        name: shapes
        for name, shapes in (rtx.profile_of(experts) | rtx.profile_of(router_node())).items()
        if name in ("x", "router_logits")
    }
    (report,) = build([Graph(model=model, profile=profile)], tmp_path)
    assert report.built, (report.errors, report.log)
    names = [layer["name"] for layer in report.plugin_layers()]
    assert names == ["layers.0.router", "layers.0.moe"]


def test_the_library_lies_in_the_plan_that_embeds_it(tmp_path: Path) -> None:
    graph = replace(graph_of("f32", "f32"), embedded=str(HOST_LIBRARY))
    plain, embedding = build([graph_of("f32", "f32"), graph], tmp_path)
    library = HOST_LIBRARY.read_bytes()
    assert library in embedding.plan
    assert b"\x7fELF" not in plain.plan


REFUSED = {
    "an unknown activation": ({"activation": "tanh"}, "attribute 'activation' is 'tanh'"),
    "rows of int8": ({"row_format": "int8"}, "attribute 'row_format' is 'int8'"),
    "panels": ({"weight_layout": "panels"}, "only CPU kernels read panels"),
    "another weight format": ({"weight_format": "bf16"}, "input 'up' is f32 [5, 64, 64]"),
    "too few names": ({"input_names": "x,topk_ids,topk_weights,down"}, "has 5 inputs"),
    "no names": ({"input_names": None}, "has 5 inputs"),
    "an attribute of another type": ({"gated": "yes"}, "attribute 'gated' is not an integer"),
}


def test_a_node_that_the_plugin_refuses_ends_with_its_words(tmp_path: Path) -> None:
    graphs = [graph_of("f32", "f32", **attributes) for attributes, _ in REFUSED.values()]
    for case, graph in zip(REFUSED, graphs, strict=True):
        graph.model.graph.node[0].name = case
    reports = build(graphs, tmp_path)
    assert not any(report.built for report in reports)
    for case, (_, words) in REFUSED.items():
        label = f"error: moe_export.Experts node '{case}': "
        said = {line for line in reports[0].stderr.splitlines() if line.startswith(label)}
        assert len(said) == 1, case
        assert words in said.pop()


def test_a_plugin_of_another_version_or_namespace_is_not_found(tmp_path: Path) -> None:
    """A namespace that is not there is not enough: the parser then looks in the node's domain."""
    version = graph_of("f32", "f32", plugin_version="2")
    namespace = graph_of("f32", "f32", plugin_namespace="elsewhere")
    domain = graph_of("f32", "f32", plugin_namespace="elsewhere")
    domain.model.graph.node[0].domain = "elsewhere"
    domain.model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    reports = build([version, namespace, domain], tmp_path)
    assert [report.built for report in reports] == [False, True, False]
    assert "Plugin not found" in reports[0].errors[0]
    assert "Plugin not found" in reports[2].errors[0]


def test_without_the_library_no_plugin_is_found(tmp_path: Path) -> None:
    require([HOST_LIBRARY])
    (report,) = rtx.build(None, [graph_of("f32", "f32")], tmp_path)
    assert not report.parsed
    assert "Plugin not found" in report.errors[0]


def test_a_graph_without_a_profile_is_refused(tmp_path: Path) -> None:
    (report,) = build([replace(graph_of("f32", "f32"), profile={})], tmp_path)
    assert report.parsed
    assert not report.built
    assert any("no optimization profile" in line for line in report.log)


def test_ids_of_int64_are_refused_by_name(tmp_path: Path) -> None:
    _, node = experts_node("f32", "f32")
    wide = {**node.inputs, "topk_ids": node.inputs["topk_ids"].astype(np.int64)}
    model = experts_model(replace(node, inputs=wide), "f32")
    (report,) = build([Graph(model=model, profile=rtx.profile_of(node))], tmp_path)
    assert not report.built
    assert "input 'topk_ids' is int64 [?, 2], expected int32" in report.stderr


def test_an_empty_input_ends_the_parse(tmp_path: Path) -> None:
    """The rule behind ``input_names``: where it no longer holds, docs/plugins.md has moved."""
    graph = graph_of("f32", "f32")
    graph.model.graph.node[0].input[3] = ""
    (report,) = build([graph], tmp_path)
    assert not report.parsed
    assert "(input) != nullptr" in report.errors[0]
