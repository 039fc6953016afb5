"""A model whose router no op says, from end to end: exported, validated, and said so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import moe_export
from moe_export.capture import capture
from moe_export.cli import program
from moe_export.load import load
from moe_export.lower import lower
from moe_export.rewrite import rewrite
from moe_export.runtime import Bundle, Session
from moe_export.spec import export_spec
from moe_export.validate import validate
from rewrite.odd_routers import HIDDEN, ODD, NearTheBest, OddRouter, Tempered, lively, rows


class TwoLayers(nn.Module):
    """Two odd layers, so that the second is fed by the first one's choice."""

    def __init__(self, kind: type[OddRouter]) -> None:
        super().__init__()
        self.first, self.second = lively(kind), lively(kind)
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(self.norm(x))
        return x + self.second(self.norm(x))


def exported(kind: type[OddRouter], output: Path, **words: object) -> Bundle:
    return moe_export.export(
        TwoLayers(kind).eval(), output=output, example_inputs=(rows(2, 9),), **words
    )


def nodes_of(bundle: Bundle) -> list[onnx.NodeProto]:
    graph = bundle.path / bundle.component("model").graph
    return list(onnx.load(graph, load_external_data=False).graph.node)


@pytest.mark.parametrize("target", ["ort", "standard"])
@pytest.mark.parametrize("kind", ODD)
def test_a_bundle_answers_as_the_model_for_any_batch(kind, target, tmp_path):
    bundle = exported(kind, tmp_path / "bundle", target=target)
    assert bundle.manifest.verdict == "passed"
    assert all(block.layer.router.kept for block in bundle.manifest.blocks)
    model = TwoLayers(kind).eval()
    with Session(bundle) as session, torch.no_grad():
        for shape in [(1, 1), (5, 3), (2, 0)]:
            x = rows(*shape)
            made = session.run({"x": x.numpy()})["output"]
            np.testing.assert_allclose(made, model(x).numpy(), rtol=1e-4, atol=1e-5)


def test_experts_are_dispatched_by_the_op_and_no_router_op_is_there(tmp_path):
    bundle = exported(NearTheBest, tmp_path / "bundle")
    ours = [node.op_type for node in nodes_of(bundle) if node.domain == "moe_export"]
    assert ours.count("Experts") == 2
    assert "Router" not in ours
    assert {"TopK", "Where"} <= {node.op_type for node in nodes_of(bundle)}


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_its_experts_may_be_rounded_and_its_router_keeps_its_numbers(precision, tmp_path):
    bundle = exported(Tempered, tmp_path / "bundle", precision=precision, dense_precision=precision)
    assert bundle.manifest.verdict == "passed"
    assert not bundle.component("model").dense


def test_routing_is_compared_and_what_cannot_be_said_is_named(tmp_path):
    bundle = exported(NearTheBest, tmp_path / "bundle")
    report = validate(bundle, replay=True)
    assert report.passed
    assert {parity.layer for parity in report.routing} == {"first", "second"}
    assert all(parity.weight_tolerance < 1e-4 for parity in report.routing)
    assert "the true one may be less" in report.not_run["routers by the oracle"]
    assert "first and 1 more" in report.not_run["routers by the oracle"]
    assert report.conflicts, "margins are found for such routers too"


def test_another_choice_than_the_model_s_fails(tmp_path):
    bundle = exported(NearTheBest, tmp_path / "bundle", target="standard")
    record = bundle.component("model")
    for graph in record.graphs:
        path = bundle.path / graph
        model = onnx.load(path, load_external_data=False)
        chooses = [node for node in model.graph.node if node.op_type == "TopK"]
        for node in chooses:
            (largest,) = (each for each in node.attribute if each.name == "largest")
            largest.i = 0
        onnx.save(model, path)
    report = validate(bundle)
    assert not report.passed
    assert min(parity.agreement for parity in report.routing) < 0.5
    assert {found.cause for found in report.attribution if found.layer == "first"} == {"router"}


def test_a_user_reads_that_a_router_was_kept_and_why(tmp_path):
    bundle = exported(NearTheBest, tmp_path / "bundle")
    said = CliRunner().invoke(program, ["inspect", str(bundle.path)]).stdout
    assert "kept as the model has it (max+sub+gt+masked_fill+softmax+topk), top-2" in said
    assert "no known router and experts reproduce it; the nearest is" in said


def test_tensorrt_gets_its_nodes_and_a_plugin_for_the_experts_alone(tmp_path):
    model = TwoLayers(NearTheBest).eval()
    loaded = load(export_spec(model, example_inputs=(rows(2, 9),)))
    lowered = lower(capture(rewrite(loaded)), "trt")
    (plugins,) = lowered.plugins.values()
    assert plugins == ("first/Experts", "second/Experts")
    (engine,) = lowered.engine_graphs.values()
    kinds = {node.op_type for node in engine.graph}
    assert {"TopK", "Where"} <= kinds
    assert not engine.functions
