"""The op set is written once: everything that repeats a signature repeats the table."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe_export.lower.functions import function_for, overload_of, render
from moe_export.moe.layer import ExpertsSpec, RouterSpec
from moe_export.moe.schema import DOMAIN, OPS, OpSchema
from moe_export.rewrite import torch_ops
from problems import all_problems, experts_problem, router_problem

from . import runtimes

EACH_OP = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
KINDS = {"int": "INT", "float": "FLOAT", "string": "STRING"}
REQUIRED = {
    "Router": {"top_k": 2},
    "Dispatch": {"num_experts": 4},
    "RotaryHeads": {"num_heads": 2},
}


def required_inputs(op: OpSchema) -> tuple[str, ...]:
    return tuple(input.name for input in op.inputs if not input.optional)


@EACH_OP
def test_the_torch_op_has_the_signature_of_the_table(op: OpSchema) -> None:
    schema = getattr(torch.ops.moe_export, runtimes.TORCH_NAMES[op.name]).default._schema
    tensors = [argument for argument in schema.arguments if not argument.kwarg_only]
    assert [a.name for a in tensors] == [input.name for input in op.inputs]
    assert [str(a.type) for a in tensors] == [
        "Optional[Tensor]" if input.optional else "Tensor" for input in op.inputs
    ]
    keywords = [argument for argument in schema.arguments if argument.kwarg_only]
    kinds = {"int": "int", "float": "float", "string": "str"}
    assert [(a.name, str(a.type)) for a in keywords] == [
        (attribute.name, kinds[attribute.type]) for attribute in op.attributes
    ]
    assert [a.default_value for a in keywords] == [a.default for a in op.attributes]
    assert [str(r.type) for r in schema.returns] == ["Tensor"] * len(op.outputs)


@EACH_OP
def test_the_eager_function_has_the_signature_of_the_table(op: OpSchema) -> None:
    eager = getattr(torch_ops, runtimes.TORCH_NAMES[op.name])._init_fn
    parameters = inspect.signature(eager).parameters.values()
    names = [*(input.name for input in op.inputs), *(a.name for a in op.attributes)]
    assert [parameter.name for parameter in parameters] == names
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert defaults == {
        a.name: inspect.Parameter.empty if a.default is None else a.default for a in op.attributes
    }


@EACH_OP
def test_the_onnx_body_has_the_signature_of_the_table(op: OpSchema) -> None:
    function = function_for(op.name, REQUIRED.get(op.name, {}), required_inputs(op))
    assert (function.domain, function.name) == (DOMAIN, op.name)
    assert [value.name for value in function.inputs] == [input.name for input in op.inputs]
    assert [value.name for value in function.outputs] == [output.name for output in op.outputs]
    assert set(function.attributes) == {attribute.name for attribute in op.attributes}
    for attribute in op.attributes:
        declared = function.attributes[attribute.name]
        if attribute.default is None:
            assert declared.value is None
        else:
            assert declared.type.name == KINDS[attribute.type]
            stored = np.float32(attribute.default) if declared.type.name == "FLOAT" else None
            assert declared.value == (attribute.default if stored is None else stored)


@pytest.mark.parametrize(
    ("op", "spec"),
    [
        ("Router", RouterSpec(num_experts=4, top_k=2)),
        (
            "Experts",
            ExpertsSpec(num_experts=4, hidden_size=2, intermediate_size=3, output_size=2),
        ),
    ],
)
def test_a_default_spec_has_the_attributes_of_the_table(
    op: str, spec: RouterSpec | ExpertsSpec
) -> None:
    """But for ``weight_layout``, which is how a graph stores a weight and no part of the layer."""
    given = spec.attributes()
    attributes = [
        attribute for attribute in OPS[op].attributes if attribute.name != "weight_layout"
    ]
    assert list(given) == [attribute.name for attribute in attributes]
    for attribute in attributes:
        if attribute.default is not None:
            assert given[attribute.name] == attribute.default
            assert type(given[attribute.name]) is type(attribute.default)


def test_a_body_reads_only_inputs_that_are_present() -> None:
    for problem in all_problems():
        function = function_for(problem.op, problem.attributes, tuple(problem.inputs))
        read = {value.name for value in function.inputs if value.uses()}
        read |= {
            value.name
            for node in function.all_nodes()
            for value in node.inputs
            if value is not None and value.name in {i.name for i in function.inputs}
        }
        assert read == set(problem.inputs), problem


def test_two_bodies_of_an_op_never_share_an_overload() -> None:
    texts: dict[tuple[str, str], str] = {}
    for problem in all_problems():
        present = tuple(problem.inputs)
        name = overload_of(problem.op, problem.attributes, present)
        text = render(problem.op, problem.attributes, present)
        assert texts.setdefault((problem.op, name), text) == text


def test_an_overload_is_readable() -> None:
    spec = RouterSpec(num_experts=8, top_k=2, normalize=True, routed_scaling=2.5)
    assert overload_of("Router", spec.attributes(), ("router_logits",)) == (
        "softmax.top2.normalized.times2.5"
    )


def test_an_overload_names_an_epsilon_that_is_read() -> None:
    how = {"num_heads": 3, "epsilon": 1e-6}
    given = required_inputs(OPS["RotaryHeads"])
    assert overload_of("RotaryHeads", how, (*given, "norm")) == "heads3.eps1e-06.norm"
    assert overload_of("RotaryHeads", how, given) == "heads3"
    assert overload_of("RotaryHeads", {"num_heads": 3}, (*given, "norm")) == "heads3.norm"


def test_the_example_in_the_docs_prints_the_body_it_says(capsys: pytest.CaptureFixture) -> None:
    docs = Path(__file__).parents[2] / "docs" / "ops.md"
    page = docs.read_text(encoding="utf-8").partition("## Reading a body")[2]
    _, example, after = re.split("```(?:python)?\n", page)
    exec(example, {})  # noqa: S102 - our own page
    assert f'overload: "{re.findall("`(.+?)`", after)[0]}"' in capsys.readouterr().out


def test_attributes_as_onnx_stores_them_name_the_same_variant() -> None:
    present = required_inputs(OPS["Experts"])
    clamped = {"activation": "swiglu_clamped", "alpha": 1.702}
    stored = {**clamped, "alpha": float(np.float32(1.702))}
    assert render("Experts", clamped, present) == render("Experts", stored, present)


@pytest.mark.parametrize(
    ("op", "attributes", "inputs", "message"),
    [
        ("Router", {}, ("router_logits",), "needs the attribute 'top_k'"),
        ("Router", {"top_k": 1, "k": 2}, ("router_logits",), r"no attributes \['k'\]"),
        ("Router", {"top_k": 1}, (), "router_logits"),
        ("RotaryHeads", {}, ("x", "cos", "sin"), "needs the attribute 'num_heads'"),
        ("RotaryHeads", {"num_heads": 2}, ("x", "cos"), r"needs the inputs \['sin'\]"),
        ("Combine", {}, ("y_sorted", "order", "topk_weights", "z"), r"no inputs \['z'\]"),
        (
            "Experts",
            {"weight_format": "int4", "block_size": 32},
            required_inputs(OPS["Experts"]),
            "down_scales",
        ),
        (
            "Linear",
            {"weight_format": "int8", "block_size": 32},
            required_inputs(OPS["Linear"]),
            "scales",
        ),
        (
            "GroupedMatMul",
            {"weight_format": "bf16", "row_format": "int8"},
            required_inputs(OPS["GroupedMatMul"]),
            "int8 rows needs",
        ),
        *(
            (op, {"weight_layout": "panels"}, required_inputs(OPS[op]), "no ONNX body")
            for op in ("Experts", "GroupedMatMul", "Linear")
        ),
    ],
)
def test_a_body_for_something_else_is_refused(
    op: str, attributes: dict[str, Any], inputs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function_for(op, attributes, inputs)


def test_a_graph_of_an_older_opset_is_refused() -> None:
    with pytest.raises(ValueError, match="need opset 21"):
        function_for("Router", {"top_k": 1}, ("router_logits",), opset_version=20)


@pytest.mark.parametrize("op", ["Experts", "GroupedMatMul", "Linear"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_pytorch_reads_no_panels(op: str, device: str) -> None:
    problem = next(problem for problem in all_problems() if problem.op == op)
    tensors = {name: runtimes.to_torch(array).to(device) for name, array in problem.inputs.items()}
    with pytest.raises(ValueError, match="not in 'panels'"):
        runtimes.call_torch(op, {**problem.attributes, "weight_layout": "panels"}, tensors)


@pytest.mark.parametrize("op", OPS)
def test_pytorch_accepts_the_op_as_well_behaved(op: str) -> None:
    """No hidden aliasing or mutation, and the fake agrees with the real op."""
    problem = next(problem for problem in all_problems() if problem.op == op)
    tensors = {name: runtimes.to_torch(array) for name, array in problem.inputs.items()}
    arguments = tuple(tensors.get(input.name) for input in OPS[op].inputs)
    overload = getattr(torch.ops.moe_export, runtimes.TORCH_NAMES[op]).default
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(overload, arguments, dict(problem.attributes), test_utils=checks)


class Layer(torch.nn.Module):
    """A router and experts, as a rewritten model calls them."""

    def __init__(self) -> None:
        super().__init__()
        spec = ExpertsSpec(num_experts=4, hidden_size=8, intermediate_size=6, output_size=8)
        weights = experts_problem("layer", spec).inputs
        self.router = torch.nn.Linear(8, 4, bias=False)
        self.up = torch.nn.Parameter(runtimes.to_torch(weights["up"]))
        self.down = torch.nn.Parameter(runtimes.to_torch(weights["down"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.moe_export
        weights, ids = ops.router(self.router(x), top_k=2, normalize=1)
        return ops.probe(ops.experts(x, ids, weights, self.up, self.down), "layer.y")


def test_capture_keeps_each_op_as_one_node_with_symbolic_tokens() -> None:
    layer = Layer().eval()
    tokens = torch.export.Dim("tokens")
    with torch.no_grad():
        program = torch.export.export(layer, (torch.randn(5, 8),), dynamic_shapes=({0: tokens},))
        x = torch.randn(11, 8)
        assert torch.equal(program.module()(x), layer(x))
    targets = [str(node.target) for node in program.graph.nodes]
    for name in ("router", "experts", "probe"):
        assert targets.count(f"moe_export.{name}.default") == 1


def test_importing_the_ops_twice_is_harmless() -> None:
    program = (
        "import importlib, torch, moe_export.rewrite.torch_ops as ops; importlib.reload(ops);"
        "torch.ops.moe_export.router(torch.zeros(1, 4), top_k=2)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)


def test_a_router_problem_runs_in_half_precision_as_float32() -> None:
    spec = RouterSpec(num_experts=8, top_k=2)
    problem = router_problem("half", np.random.default_rng(0).normal(size=(5, 8)), spec)
    half = runtimes.to_torch(problem.inputs["router_logits"]).to(torch.bfloat16)
    weights, ids = torch.ops.moe_export.router(half, **problem.attributes)
    exact = torch.ops.moe_export.router(half.float(), **problem.attributes)
    assert torch.equal(weights, exact[0])
    assert weights.dtype == torch.float32
    assert torch.equal(ids, exact[1])
