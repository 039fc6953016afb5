"""The oracle takes no right kernel for a wrong one, in any format, and no wrong one for a right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import moe_export
from moe_export import Bundle, Session
from moe_export.runtime.nodes import Written
from moe_export.validate import validate
from moe_export.validate.oracle import Oracle
from moe_export.validate.runs import Cases, Run

from . import patient
from .conftest import Line


class Interleaved(nn.Module):
    """Top-2 of four gated experts whose gates and values lie in turn, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 4, bias=False)
        self.gate_up = nn.Parameter(torch.randn(4, 64, 64) / 8)
        self.gate_up_bias = nn.Parameter(torch.randn(4, 64) / 4)
        self.down = nn.Parameter(torch.randn(4, 64, 32) / 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, 64)
        weights, ids = self.gate(rows).softmax(-1).topk(2, dim=-1)
        y = torch.zeros_like(rows)
        for expert in range(4):
            token, choice = torch.where(ids == expert)
            hidden = rows[token] @ self.gate_up[expert].t() + self.gate_up_bias[expert]
            gate, value = hidden[:, 0::2], hidden[:, 1::2]
            made = (nn.functional.silu(gate) * value) @ self.down[expert].t()
            y.index_add_(0, token, made * weights[token, choice, None])
        return y.reshape(x.shape)


PRECISIONS = ("f32", "bf16", "f16", "int8", "int8:32", "int4:32")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.LayerNorm(64), Interleaved()).eval()


@pytest.fixture(scope="module", params=[(p, t) for p in PRECISIONS for t in ("ort", "standard")])
def bundle(request, model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    precision, target = request.param
    return moe_export.export(
        model,
        output=tmp_path_factory.mktemp("oracle") / "bundle",
        example_inputs=(torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(8)),),
        target=target,
        precision=precision,
    )


@pytest.fixture(scope="module")
def run(bundle: Bundle) -> Run:
    with Cases(bundle, "model") as cases:
        return cases.run(bundle.golden().cases[0])


def experts_are_right(bundle: Bundle, run: Run, y: np.ndarray) -> bool | None:
    name = run.probes["1"]["experts_y"]
    oracle = Oracle(bundle, "model", "probe")
    return oracle.experts_are_right(name, run.rows("1", "x"), *run.served("1"), y)


def test_experts_in_every_format_are_what_the_oracle_makes_of_their_stored_weights(
    bundle: Bundle, run: Run
) -> None:
    assert experts_are_right(bundle, run, run.rows("1", "experts_y")) is True


def test_one_wrong_row_of_experts_is_seen(bundle: Bundle, run: Run) -> None:
    y = run.rows("1", "experts_y").copy()
    y[[2, 3]] = y[[3, 2]]
    assert experts_are_right(bundle, run, y) is False


def router_is_right(bundle: Bundle, run: Run, ids: np.ndarray, weights: np.ndarray) -> bool | None:
    oracle = Oracle(bundle, "model", "probe")
    return oracle.router_is_right(
        run.probes["1"]["topk_ids"], run.rows("1", "router_logits"), ids, weights
    )


def test_a_router_is_right_as_it_is_and_wrong_with_another_choice_or_weight(
    bundle: Bundle, run: Run
) -> None:
    ids, weights = run.decided("1")
    assert router_is_right(bundle, run, ids, weights) is True
    assert router_is_right(bundle, run, (ids + 1) % 4, weights) is False
    assert router_is_right(bundle, run, ids, weights * np.float32(1 + 1e-5)) is False
    assert router_is_right(bundle, run, ids[:, :1], weights[:, :1]) is False


def test_a_product_of_logits_is_right_as_it_is_and_wrong_by_a_hair(
    bundle: Bundle, run: Run
) -> None:
    oracle, logits = Oracle(bundle, "model", "probe"), run.rows("1", "router_logits")
    names, x = run.probes["1"], run.rows("1", "x")

    def right(made: np.ndarray) -> bool | None:
        return oracle.logits_are_right(names["router_logits"], names["x"], x, made)

    assert right(logits) is True
    assert right(logits + np.float32(1e-4)) is False


def test_the_order_of_equal_experts_is_no_fault(bundle: Bundle, run: Run) -> None:
    ids, weights = (array[:, ::-1] for array in run.decided("1"))
    assert router_is_right(bundle, run, ids, weights) is True


def test_layers_of_several_ops_are_not_judged(tmp_path: Path) -> None:
    class Tanh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(64, 4, bias=False)
            self.up = nn.Parameter(torch.randn(4, 32, 64) / 8)
            self.down = nn.Parameter(torch.randn(4, 64, 32) / 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.reshape(-1, 64)
            weights, ids = self.gate(rows).softmax(-1).topk(2, dim=-1)
            y = torch.zeros_like(rows)
            for expert in range(4):
                token, choice = torch.where(ids == expert)
                made = torch.tanh(rows[token] @ self.up[expert].t()) @ self.down[expert].t()
                y.index_add_(0, token, made * weights[token, choice, None])
            return y.reshape(x.shape)

    bundle = moe_export.export(
        nn.Sequential(nn.LayerNorm(64), Tanh()).eval(),
        output=tmp_path / "bundle",
        example_inputs=(torch.randn(2, 3, 64),),
    )
    with Cases(bundle, "model") as cases:
        run = cases.run(bundle.golden().cases[0])
    assert experts_are_right(bundle, run, run.rows("1", "experts_y")) is None


@pytest.mark.parametrize("target", ["ort", "standard"])
def test_a_graph_is_read_as_onnx_reads_it(line: Line, target: str) -> None:
    bundle = line.bundle(target)
    written = Written(bundle, "model", "probe")
    read = onnx.load(bundle.graph_path("model", "probe"))
    for node in read.graph.node:
        for output in node.output:
            made = written.maker(output)
            if node.op_type == "Identity":
                continue
            assert made is not None
            assert (made.domain, made.op_type) == (node.domain, node.op_type)
            assert made.inputs == tuple(node.input)
            scalars = {
                a.name: onnx.helper.get_attribute_value(a)
                for a in node.attribute
                if a.type in (a.INT, a.FLOAT, a.STRING)
            }
            texts = {k: v.decode() if isinstance(v, bytes) else v for k, v in scalars.items()}
            assert made.attributes == texts
    for tensor in read.graph.initializer:
        expected = onnx.numpy_helper.to_array(tensor)
        found = written.tensor(tensor.name)
        assert found is not None
        assert np.array_equal(found, expected)


def test_what_no_graph_has_is_not_there(line: Line) -> None:
    written = Written(line.bundle("ort"), "model", "probe")
    assert written.maker("no such value") is None
    assert written.tensor("no such weight") is None
    assert written.maker("tokens") is None


def test_a_kernel_that_serves_padding_is_caught_by_padded_tokens_alone(line: Line) -> None:
    """A kernel that takes a negative id for expert 0 is right wherever nothing is padded."""
    from .faults import Fault, insert

    def serve_padding(function) -> None:
        insert(function, "ids", "Max", "zero")

    report = line.report(
        Fault("serves padding", "kernel", "first", in_function=("Experts", serve_padding)),
        "standard",
    )
    assert {tensor.case for tensor in report.tensors if not tensor.passed} == {"padded"}
    assert [(each.case, each.cause, each.layer) for each in report.attribution] == [
        ("padded", "kernel", "first")
    ]


def test_every_layer_has_its_four_cases_of_experts_alone(line: Line) -> None:
    report = validate(line.bundle("ort"))
    cases = [(t.case, t.name) for t in report.tensors if t.kind == "expert"]
    names = ("every expert", "padded", "empty", "overloaded")
    assert cases == [(n, f"{layer}/experts") for n in names for layer in ("first", "second")]


def test_replay_is_what_the_experts_get_and_not_what_the_router_says(line: Line) -> None:
    """Other experts forced in: the outputs follow them, the routers' own choice does not."""
    bundle = line.bundle("ort")
    case = line.portable.golden.cases[0]
    with Session(bundle, graph="replay") as session:

        def made(shift: int) -> dict[str, np.ndarray]:
            routing = {}
            for layer, experts in (("first", 6), ("second", 5)):
                recorded = case.layers[layer]
                ids = (recorded.topk_ids + (shift if layer == "second" else 0)) % experts
                routing[f"replay/{layer}/topk_ids"] = ids.astype(np.int32)
                routing[f"replay/{layer}/topk_weights"] = recorded.topk_weights
            return session.run({**case.inputs, **routing})

        own, other = made(0), made(1)
    assert np.array_equal(own["routed/second/topk_ids"], case.layers["second"].topk_ids)
    assert np.array_equal(other["routed/second/topk_ids"], own["routed/second/topk_ids"])
    assert np.abs(other["logits"] - own["logits"]).max() > 0.1
    assert own["logits"].shape[-1] == patient.VOCABULARY
