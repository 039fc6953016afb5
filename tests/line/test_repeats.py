"""Layers of one form are translated once: the graph is the one that was translated whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from moe_export.capture.onnx_ops import translations
from moe_export.capture.repeats import Repeat, once_each
from moe_export.capture.unfold import CannotUnfoldError, unfold
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
    with once_each(model) as found:
        program = program_of(model)
    graph = graph_of(program)
    unfold(graph, found)
    return graph, found


def copies(found: list[Repeat]) -> dict[str, str]:
    """Each copy's path, and what it is a copy of."""
    return {repeat.path: repeat.path_of_original for repeat in found}


def test_copies_make_the_graph_that_translating_all_makes() -> None:
    torch.manual_seed(1)
    model = Stack([1.0, 1.0, 1.0, 1.0]).eval()
    graph, found = unfolded(model)
    assert copies(found) == {f"layers.{i}": "layers.0" for i in (1, 2, 3)} | {"heads.1": "heads.0"}
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
    assert copies(found) == {"layers.2": "layers.0", "heads.1": "heads.0"}
    x = torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        expected = model(x)
    for made, eager in zip(run(graph, x), expected, strict=True):
        np.testing.assert_allclose(made, eager.numpy(), rtol=1e-4, atol=1e-5)


def test_layers_that_differ_in_a_word_are_not_copies() -> None:
    model = Stack([1.0, 1.0, 1.0]).eval()
    model.layers[1].gelu = nn.GELU("tanh")
    graph, found = unfolded(model)
    assert copies(found) == {"layers.2": "layers.0", "heads.1": "heads.0"}
    x = 3 * torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        expected = model(x)
    for made, eager in zip(run(graph, x), expected, strict=True):
        np.testing.assert_allclose(made, eager.numpy(), rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_called_again_is_a_copy_of_itself() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in (*self.layers, *self.layers):
                x = layer(x).relu()
            return x

    model = Again().eval()
    graph, found = unfolded(model)
    assert [repeat.path for repeat in found] == ["layers.1", "layers.0", "layers.1"]
    x = torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        np.testing.assert_allclose(run(graph, x)[0], model(x).numpy(), rtol=1e-5, atol=1e-6)


class Choosing(nn.Module):
    """A layer that works on as many rows as its own numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = (self.gate(x)[:, 0] > 0).nonzero()[:, 0]
        return x.index_add(0, rows, self.linear(x[rows]).relu().tanh().relu())


def test_sizes_that_layers_find_in_their_numbers_are_their_own() -> None:
    torch.manual_seed(3)
    model = nn.Sequential()
    model.layers = nn.ModuleList(Choosing() for _ in range(4))
    model.forward = lambda x: reduce(lambda y, layer: layer(y), model.layers, x)
    model.eval()
    x = torch.randn(9, WIDTH)
    with once_each(model) as found:
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    graph = graph_of(program)
    unfold(graph, found)
    assert len(found) == 3
    sizes = [
        {
            str(dim)
            for value in node.outputs
            for dim in value.shape or ()
            if not isinstance(dim, int)
        }
        for node in graph.graph
        if node.op_type == "NonZero"
    ]
    named = [size for each in sizes for size in each if size != "None"]
    assert len(named) == len(set(named)), "two layers share the name of a size"
    with torch.no_grad():
        expected = model(x)
    np.testing.assert_allclose(run(graph, x)[0], expected.numpy(), rtol=1e-4, atol=1e-5)


class Cache:
    """What all layers are handed, with a place for each."""

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept: list[Tensor] = list(kept)
        self.marks: list[int] = [0 for _ in kept]


class Keeping(nn.Module):
    """A layer that replaces what it finds in its place."""

    def __init__(self, number: int, start: int = 0) -> None:
        super().__init__()
        self.linear, self.number, self.start = nn.Linear(WIDTH, WIDTH), number, start

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        seen = torch.cat([cache.kept[self.number], self.linear(x)], dim=1)
        cache.kept[self.number] = seen
        cache.marks[self.number] += 1
        return x + seen[:, self.start :].mean(dim=1, keepdim=True)


class Remembering(nn.Module):
    """Layers with a cache; what it holds in the end is given too."""

    def __init__(self, starts: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Keeping(i, start) for i, start in enumerate(starts))

    def forward(self, x: Tensor, first: Tensor, second: Tensor, third: Tensor) -> list[Tensor]:
        cache = Cache([first, second, third])
        for layer in self.layers:
            x = layer(x, cache)
        assert cache.marks == [1, 1, 1], "a copy leaves what its original left"
        return [x, *cache.kept]


@pytest.mark.parametrize("starts", [[0, 0, 0], [0, 5, 0]])
def test_what_layers_keep_in_a_cache_is_copied_to_the_places_of_the_copies(
    starts: list[int],
) -> None:
    torch.manual_seed(2)
    model = Remembering(starts).eval()
    inputs = [torch.randn(2, 4, WIDTH), *(torch.randn(2, 3, WIDTH) for _ in range(3))]
    with once_each(model) as found:
        program = torch.export.export(model, tuple(inputs))
    graph = graph_of(program)
    unfold(graph, found)
    # A number that happens to be the layer's own is taken for that, another is not.
    alike = [f"layers.{i}" for i in (1, 2) if starts[i] == starts[0]]
    assert copies(found) == dict.fromkeys(alike, "layers.0")
    with torch.no_grad():
        expected = model(*inputs)
    proto = ir.to_proto(graph).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    for made, eager in zip(session.run(None, given), expected, strict=True):
        np.testing.assert_allclose(made, eager.numpy(), rtol=1e-5, atol=1e-5)


def test_a_layer_that_becomes_a_graph_in_a_node_is_not_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Stack([1.0, 1.0]).eval()
    with once_each(model) as found:
        program = program_of(model)
    graph = graph_of(program)
    inner = ir.Graph([], [], nodes=[])
    node = next(node for node in graph.graph if node.op_type == "LayerNormalization")
    node.attributes.add(ir.AttrGraph("body", inner))
    with pytest.raises(CannotUnfoldError):
        unfold(graph, found)


@pytest.mark.parametrize("count", [2, 5])
def test_tracing_does_not_grow_with_the_layers(count: int) -> None:
    model = Stack([1.0] * count).eval()
    with once_each(model):
        program = program_of(model)
    calls: Callable[[str], int] = lambda name: sum(  # noqa: E731
        node.op == "call_function" and name in str(node.target) for node in program.graph.nodes
    )
    assert calls("layer_norm") == 1
    assert calls("repeat") == 2 * (count - 1) + 1


def test_a_model_is_afterwards_what_it_was() -> None:
    model = Stack([1.0, 1.0]).eval()
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    with once_each(model):
        program_of(model)
    assert {n: id(t) for n, t in model.state_dict(keep_vars=True).items()} == before
    assert not any("forward" in vars(layer) for layer in model.modules())
