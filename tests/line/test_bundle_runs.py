"""The exported graph is the model, on inputs and sizes that the example did not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import moe_export
from moe_export import Bundle, Session
from moe_export.runtime.bundle import Bundle as RuntimeBundle

from . import tiny
from .conftest import eager, inputs_of

EPS = float(np.finfo(np.float32).eps)


def tolerance(model: torch.nn.Module, values: np.ndarray) -> float:
    """Rounding of the longest chain of sums: three blocks, a norm and a head, each once."""
    terms = 8 * (tiny.WIDTH + 8)
    return 2 * terms * EPS * max(float(np.abs(values).max(initial=0.0)), 1.0)


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (1, 3), (7, 1), (1, 253), (3, 6), (5, 40)])
def test_other_sizes_and_numbers_give_what_eager_gives(
    bundle: Bundle, model: torch.nn.Module, batch: int, sequence: int
) -> None:
    inputs = inputs_of(batch, sequence, seed=batch * 1000 + sequence)
    with Session(bundle) as session:
        made = session.run(inputs)
    for name, expected in eager(model, inputs).items():
        assert made[name].shape == expected.shape
        assert float(np.abs(made[name] - expected).max()) <= tolerance(model, expected)


def test_no_tokens_at_all_give_empty_outputs(bundle: Bundle) -> None:
    with Session(bundle) as session:
        made = session.run(inputs_of(0, 5))
    assert made["logits"].shape == (0, 9, tiny.VOCABULARY)


def test_every_expert_of_the_graph_is_reached_by_inputs_the_example_did_not_hold(
    bundle: RuntimeBundle,
) -> None:
    seen: dict[str, set[int]] = {"first": set(), "second": set(), "third": set()}
    with Session(bundle, graph="probe") as session:
        for seed in range(20):
            made = session.run(inputs_of(8, 12, seed=seed + 50))
            for layer in seen:
                seen[layer].update(made[f"{layer}/topk_ids"].ravel().tolist())
    assert seen["first"] == set(range(6))
    assert seen["second"] == set(range(5))
    assert seen["third"] == set(range(4))


def test_routing_follows_the_input_and_not_the_example(bundle: Bundle) -> None:
    with Session(bundle, graph="probe") as session:
        one, other = (session.run(inputs_of(2, 4, seed=seed)) for seed in (1, 2))
    assert not np.array_equal(one["first/topk_ids"], other["first/topk_ids"])


def test_batch_and_sequence_are_symbolic_and_nothing_else(bundle: Bundle) -> None:
    with Session(bundle) as session:
        shapes = {info.name: tuple(info.shape) for info in session.inputs}
    assert shapes["tokens"] == ("batch", "sequence")
    assert shapes["image"][0] == "batch"
    assert shapes["image"][2] == 4


def test_a_tied_weight_is_stored_once(bundle: Bundle) -> None:
    graph = (bundle.path / "onnx/model.onnx").read_bytes()
    assert graph.count(b"embedding.weight") >= 1
    assert b"head.weight" not in graph


def test_a_block_that_is_the_whole_model_is_exported_too(tmp_path: Path) -> None:
    block = tiny.build().second
    x = torch.randn(2, 5, tiny.WIDTH)
    whole = moe_export.export(block, output=tmp_path / "whole", example_inputs=(x,))
    (record,) = whole.manifest.blocks
    assert record.status == "proven"
    with Session(whole) as session:
        made = session.run({"x": x[:1, :3].numpy()})
    with torch.no_grad():
        y, scores = block(x[:1, :3])
    assert float(np.abs(made["output_0"] - y.numpy()).max()) <= tolerance(block, y.numpy())
    assert float(np.abs(made["output_1"] - scores.numpy()).max()) <= tolerance(block, y.numpy())


def test_what_forward_never_reads_is_listed_with_the_reason(bundle: Bundle) -> None:
    assert bundle.manifest.unused == {"steps_trained": "forward() never reads it"}
