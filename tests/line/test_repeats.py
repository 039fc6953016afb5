"""Layers of one form are translated once: the graph is the one that was translated whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from moe_export.capture import repeats
from moe_export.capture.onnx_ops import translations
from moe_export.capture.repeats import Repeat, fold, unfold
from moe_export.rewrite import torch_ops as _ops  # noqa: F401 - registers the probe

WIDTH = 6


class Layer(nn.Module):
    """A residual layer that keeps what it computed, and has a name of its own inside."""

    def __init__(self, name: str, slope: float = 1.0) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.name, self.slope, self.gelu = name, slope, nn.GELU()

    def forward(self, x: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        kept: Tensor = torch.ops.moe_export.probe(self.linear(self.norm(x)), f"{self.name}/kept")
        return x + self.gelu(kept) * self.slope + shared.reshape(x.shape[0], 1, 1), kept


class Stack(nn.Module):
    """Layers one after the other, something between them, and a list of heads behind."""

    def __init__(self, slopes: list[float]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(f"layers.{i}", s) for i, s in enumerate(slopes))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 3) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        shared = x.mean((1, 2))
        kept = []
        for number, layer in enumerate(self.layers):
            x, own = layer(x, shared)
            kept.append(own)
            if number == 0:
                x = x * 2
        return (*(head(x) for head in self.heads), *kept)


def program_of(model: nn.Module) -> torch.export.ExportedProgram:
    x = torch.randn(2, 5, WIDTH)
    return torch.export.export(
        model, (x,), dynamic_shapes=({0: torch.export.Dim("b"), 1: torch.export.Dim("s")},)
    )


def graph_of(program: torch.export.ExportedProgram) -> ir.Model:
    made = torch.onnx.export(
        program, dynamo=True, optimize=False, verbose=False, custom_translation_table=translations()
    )
    assert made is not None
    return made.model


def arithmetic_of(graph: ir.Model) -> list[str]:
    """Its operators but for those on sizes, which copies may share."""
    on_sizes = ("Constant", "Concat", "Reshape")
    return sorted(node.op_type for node in graph.graph if node.op_type not in on_sizes)


def run(graph: ir.Model, x: Tensor) -> list[np.ndarray]:
    """What ONNX Runtime makes of it, once its probes are copies."""
    for node in list(graph.graph):
        if node.op_type == "Probe":
            node.domain, node.op_type = "", "Identity"
            node.attributes.clear()
    proto = ir.to_proto(graph).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


def unfolded(model: nn.Module) -> tuple[ir.Model, list[Repeat]]:
    program = program_of(model)
    found = fold(program, model)
    graph = graph_of(program)
    unfold(graph, found)
    return graph, found


def test_copies_make_the_graph_that_translating_all_makes() -> None:
    torch.manual_seed(1)
    model = Stack([1.0, 1.0, 1.0, 1.0]).eval()
    graph, found = unfolded(model)
    assert [(repeat.number, repeat.original) for repeat in found] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (5, 4),  # the heads
    ]
    whole = graph_of(program_of(model))
    assert arithmetic_of(graph) == arithmetic_of(whole)
    probes = {n.attributes["name"].as_string() for n in graph.graph if n.op_type == "Probe"}
    assert probes == {f"layers.{i}/kept" for i in range(4)}
    for batch, length in ((2, 5), (1, 1), (3, 2)):
        x = torch.randn(batch, length, WIDTH)
        with torch.no_grad():
            expected = model(x)
        for made, eager in zip(run(graph, x), expected, strict=True):
            np.testing.assert_allclose(made, eager.numpy(), rtol=1e-4, atol=1e-5)


def test_layers_that_differ_in_a_number_are_not_copies() -> None:
    model = Stack([1.0, 0.5, 1.0, 0.25]).eval()
    graph, found = unfolded(model)
    assert [(repeat.number, repeat.original) for repeat in found] == [(2, 0), (5, 4)]
    x = torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        expected = model(x)
    for made, eager in zip(run(graph, x), expected, strict=True):
        np.testing.assert_allclose(made, eager.numpy(), rtol=1e-4, atol=1e-5)


def test_layers_that_differ_in_a_word_are_not_copies() -> None:
    model = Stack([1.0, 1.0, 1.0]).eval()
    model.layers[1].gelu = nn.GELU("tanh")
    graph, found = unfolded(model)
    assert [(repeat.number, repeat.original) for repeat in found] == [(2, 0), (4, 3)]
    x = 3 * torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        expected = model(x)
    for made, eager in zip(run(graph, x), expected, strict=True):
        np.testing.assert_allclose(made, eager.numpy(), rtol=1e-5, atol=1e-6)


def test_operators_of_other_modules_between_those_of_a_child_leave_it_alone() -> None:
    class Interleaved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in (*self.layers, *self.layers):
                x = layer(x).relu()
            return x

    assert fold(program_of(Interleaved()), Interleaved()) == []


def test_a_layer_that_becomes_a_graph_in_a_node_is_not_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Stack([1.0, 1.0]).eval()
    program = program_of(model)
    found = fold(program, model)
    graph = graph_of(program)
    inner = ir.Graph([], [], nodes=[])
    node = next(node for node in graph.graph if node.op_type == "LayerNormalization")
    node.attributes.add(ir.AttrGraph("body", inner))
    with pytest.raises(repeats.CannotUnfoldError):
        unfold(graph, found)


@pytest.mark.parametrize("count", [2, 5])
def test_translating_does_not_grow_with_the_layers(count: int) -> None:
    program = program_of(Stack([1.0] * count).eval())
    fold(program, Stack([1.0] * count))
    calls: Callable[[str], int] = lambda name: sum(  # noqa: E731
        node.op == "call_function" and name in str(node.target) for node in program.graph.nodes
    )
    assert calls("layer_norm") == 1
    assert calls("repeat") == 2 * (count - 1) + 1
